# SPDX-License-Identifier: Apache-2.0
# Run by CPack on what it has installed to make packages of: Debian wants manual pages and
# changelogs compressed, and the same each time (no name, no time in them).
file(GLOB_RECURSE texts "${CPACK_TEMPORARY_DIRECTORY}/*/usr/share/man/man*/*.[1-9]"
	"${CPACK_TEMPORARY_DIRECTORY}/*/usr/share/doc/*/changelog.Debian")
foreach(text ${texts})
	execute_process(COMMAND gzip -9nf ${text} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
