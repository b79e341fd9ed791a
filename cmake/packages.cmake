# SPDX-License-Identifier: Apache-2.0
# Debian packages, by CPack: scripts/packages.sh. Each component of install() is one.
#   daemon       postcopyd         a host that receives guests
#   source       postcopy-source   a host that guests leave
#   ctl          postcopyctl       what both have: the command, the journal's catalog, keys
#   library      libpostcopy0      what VMMs link
#   qemu         postcopy-qemu     what an unmodified QEMU loads before its own libraries
#   development  libpostcopy-dev
set(CPACK_GENERATOR DEB)
set(CPACK_COMPONENTS_ALL daemon source ctl library qemu development)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGE_NAME postcopyd)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "") # each component's description has its own
set(CPACK_PRE_BUILD_SCRIPTS ${PROJECT_SOURCE_DIR}/cmake/compress_docs.cmake)

set(CPACK_DEBIAN_PACKAGE_MAINTAINER "postcopyd maintainers <maintainers@postcopy.example>")
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(full_version ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE})

# package(COMPONENT NAME SECTION DEPENDS DESCRIPTION CONTROL-FILE...)
macro(package component name section depends description)
	string(TOUPPER ${component} upper)
	set(CPACK_DEBIAN_${upper}_PACKAGE_NAME ${name})
	set(CPACK_DEBIAN_${upper}_PACKAGE_SECTION ${section})
	set(CPACK_DEBIAN_${upper}_PACKAGE_DEPENDS "${depends}")
	set(CPACK_COMPONENT_${upper}_DESCRIPTION "${description}")
	set(CPACK_DEBIAN_${upper}_PACKAGE_CONTROL_EXTRA "${ARGN}")
	install(FILES packaging/debian/copyright ${PROJECT_BINARY_DIR}/packaging/changelog.Debian
		DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${name} COMPONENT ${component})
endmacro()

# service_scripts(PACKAGE SERVICE OTHER GROUPS SOCKET...): what is run when it is installed,
# in build/packaging/PACKAGE
function(service_scripts package service other groups)
	list(JOIN ARGN " " sockets)
	set(units "${service}.service ${sockets}")
	foreach(script postinst prerm postrm)
		configure_file(packaging/debian/service.${script}.in packaging/${package}/${script}
			@ONLY FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
			GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
	endforeach()
	file(WRITE ${PROJECT_BINARY_DIR}/packaging/${package}/conffiles
		"/etc/postcopyd/${service}.conf\n")
endfunction()

file(WRITE ${PROJECT_BINARY_DIR}/packaging/changelog.Debian
"postcopyd (${full_version}) unstable; urgency=medium

  * Release ${PROJECT_VERSION}.

 -- ${CPACK_DEBIAN_PACKAGE_MAINTAINER}  Sun, 01 Nov 2026 12:00:00 +0000
")
service_scripts(postcopyd postcopyd postcopy-sourced "postcopyd postcopy"
	postcopyd-control.socket postcopyd-attach.socket postcopyd-status.socket)
service_scripts(postcopy-source postcopy-sourced postcopyd "postcopy-sourced"
	postcopy-sourced-control.socket postcopy-sourced-export.socket)
set(control ${PROJECT_BINARY_DIR}/packaging)

set(service_depends "init-system-helpers (>= 1.54~), passwd, systemd (>= 252)")
package(daemon postcopyd admin "${service_depends}, postcopyctl (>= ${full_version})"
"page faults of virtual machines that migrate to this host
The guest already runs here while its memory is still on the host it came from.
Each first touch of a page is a userfaultfd event: postcopyd asks the source
host for the page, over mutual TLS 1.3, and puts it in place. Pages that were
lost to a memory error stay lost (UFFDIO_POISON), and never read as zeros."
	${control}/postcopyd/postinst ${control}/postcopyd/prerm
	${control}/postcopyd/postrm ${control}/postcopyd/conffiles)
package(source postcopy-source admin "${service_depends}, postcopyctl (>= ${full_version})"
"memory of virtual machines that have migrated away
Serves the pages of guests that already run on another host, under postcopyd,
while their memory is still here, over mutual TLS 1.3; and says which of them
were lost to memory errors."
	${control}/postcopy-source/postinst ${control}/postcopy-source/prerm
	${control}/postcopy-source/postrm ${control}/postcopy-source/conffiles)
package(ctl postcopyctl admin "openssl"
"operator's command for postcopyd and postcopy-sourced
Starts, shows, watches and cancels migrations, lists lost pages and probes what
this host's kernel can do. Also what the services of both hosts have in common:
the texts for journalctl -x, and a script that makes certificates.")
package(library libpostcopy0 libs ""
"library for virtual machine monitors that use postcopyd
Hands a guest's userfaultfds and memory to postcopyd on the host that receives
it, and to postcopy-sourced on the host that it leaves."
	${PROJECT_SOURCE_DIR}/packaging/debian/triggers)
package(qemu postcopy-qemu admin ""
"live migration of an unmodified QEMU by postcopyd
A library that QEMU loads by LD_PRELOAD. It hands the guest's memory to
postcopyd on the host that receives it, and to postcopy-sourced on the host
that it leaves; postcopyctl qemu-migrate drives it.")
package(development libpostcopy-dev libdevel "libpostcopy0 (= ${full_version})"
"library for virtual machine monitors that use postcopyd - development files
Hands a guest's userfaultfds and memory to postcopyd on the host that receives
it, and to postcopy-sourced on the host that it leaves.
.
The header, with the whole contract, and what is needed to link.")

include(CPack)
