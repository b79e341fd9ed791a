#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# An example PKI for postcopyd and postcopy-sourced: one CA, one certificate a
# host, EC P-256. Fit for a lab and for the demo; in production use the CA that
# your control plane already has, with the same extensions.
#
# The names (SANs) are what a migration's "peer identity" is compared with.
set -eu

usage() {
	cat <<'USAGE'
usage: make-pki.sh [options] DIR

Makes in DIR: ca.pem ca.key and, for each certificate, NAME.pem NAME.key.
An existing ca.pem in DIR is used again. Without --cert it makes "source" and
"destination" with the names given below.

  --cert NAME               make this certificate only (may be given again)
  --source-dns NAME         default source.postcopy.example
  --source-uri URI          default postcopy://source
  --destination-dns NAME    default destination.postcopy.example
  --destination-uri URI     default postcopy://destination
  --dns NAME, --uri URI     names for a --cert that is neither of the two
  --days N                  valid for N days, default 365 (N = -1: already expired)
  --not-after YYYYMMDDHHMMSSZ  valid until then instead (it may be in the past)
USAGE
}

die() {
	echo "make-pki.sh: $*" >&2
	exit 2
}

source_dns=source.postcopy.example source_uri=postcopy://source
destination_dns=destination.postcopy.example destination_uri=postcopy://destination
dns='' uri='' certs='' days=365 not_after='' dir=''
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--*) [ $# -ge 2 ] || die "$1 needs a value (see --help)" ;;
	esac
	case $1 in
	--cert) certs="$certs $2" ;;
	--source-dns) source_dns=$2 ;;
	--source-uri) source_uri=$2 ;;
	--destination-dns) destination_dns=$2 ;;
	--destination-uri) destination_uri=$2 ;;
	--dns) dns=$2 ;;
	--uri) uri=$2 ;;
	--days) days=$2 ;;
	--not-after) not_after=$2 ;;
	--*) die "unknown option $1 (see --help)" ;;
	*) [ -z "$dir" ] || die "one DIR only (see --help)"; dir=$1; shift; continue ;;
	esac
	shift 2
done
[ -n "$dir" ] || { usage >&2; exit 2; }
command -v openssl >/dev/null || die "openssl is missing: apt-get install openssl"
[ -n "$not_after" ] || not_after=$(date -u -d "$days days" +%Y%m%d%H%M%SZ) ||
	die "--days $days: expected a number of days"
case $not_after in
[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]Z) ;;
*) die "--not-after $not_after: expected YYYYMMDDHHMMSSZ" ;;
esac
umask 077
mkdir -p "$dir"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

run() {
	openssl "$@" 2>"$work/log" || { cat "$work/log" >&2; die "openssl $1 failed"; }
}

make_key() {
	run ecparam -name prime256v1 -genkey -noout -out "$1"
}

make_ca() {
	[ ! -e "$dir/ca.pem" ] || return 0
	make_key "$dir/ca.key"
	run req -new -x509 -key "$dir/ca.key" -out "$dir/ca.pem" -days 3650 -sha256 \
		-subj "/CN=postcopy example CA" \
		-addext basicConstraints=critical,CA:TRUE,pathlen:0 \
		-addext keyUsage=critical,keyCertSign,cRLSign
}

# "openssl ca" is the one command that takes an end date.
make_cert() { # NAME SANS
	: >"$work/index"
	openssl rand -hex 16 >"$work/serial"
	cat >"$work/conf" <<CONF
[ca]
default_ca = example
[example]
new_certs_dir = $work
database = $work/index
serial = $work/serial
default_md = sha256
policy = any
x509_extensions = host
unique_subject = no
[any]
commonName = supplied
[host]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = $2
[req]
distinguished_name = dn
prompt = no
[dn]
commonName = $1
CONF
	make_key "$dir/$1.key"
	run req -new -key "$dir/$1.key" -out "$work/$1.csr" -config "$work/conf"
	run ca -batch -notext -config "$work/conf" -cert "$dir/ca.pem" -keyfile "$dir/ca.key" \
		-startdate 20200101000000Z -enddate "$not_after" \
		-in "$work/$1.csr" -out "$dir/$1.pem"
	echo "$dir/$1.pem: $2, until $not_after"
}

# "DNS:a, URI:b" of those that are not empty.
sans() {
	s=''
	[ -z "$1" ] || s="DNS:$1"
	[ -z "$2" ] || s="${s:+$s, }URI:$2"
	[ -n "$s" ] || die "a certificate needs --dns or --uri"
	echo "$s"
}

make_ca
for name in ${certs:-source destination}; do
	case $name in
	source) names=$(sans "$source_dns" "$source_uri") ;;
	destination) names=$(sans "$destination_dns" "$destination_uri") ;;
	*) names=$(sans "$dns" "$uri") ;;
	esac
	make_cert "$name" "$names"
done
