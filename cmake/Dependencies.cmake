# SPDX-License-Identifier: Apache-2.0
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(LIBEVENT REQUIRED IMPORTED_TARGET libevent>=2.1 libevent_pthreads)
pkg_check_modules(PROTOBUFC REQUIRED IMPORTED_TARGET libprotobuf-c>=1.4)
pkg_check_modules(OPENSSL REQUIRED IMPORTED_TARGET openssl>=3.0)
pkg_check_modules(SYSTEMD REQUIRED IMPORTED_TARGET libsystemd>=252)
pkg_check_modules(INIH REQUIRED IMPORTED_TARGET inih)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(CMOCKA IMPORTED_TARGET cmocka)
find_program(PROTOC_C protoc-c REQUIRED)

# Generated protobuf code in the build tree: NAME.pb-c.{c,h} for proto/NAME.proto.
function(protobuf_c_generate out_sources)
	set(sources "")
	foreach(name ${ARGN})
		set(base ${CMAKE_CURRENT_BINARY_DIR}/proto/${name}.pb-c)
		add_custom_command(OUTPUT ${base}.c ${base}.h
			COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_CURRENT_BINARY_DIR}/proto
			COMMAND ${PROTOC_C} --proto_path=${PROJECT_SOURCE_DIR}/proto
				--c_out=${CMAKE_CURRENT_BINARY_DIR}/proto
				${PROJECT_SOURCE_DIR}/proto/${name}.proto
			DEPENDS ${PROJECT_SOURCE_DIR}/proto/${name}.proto VERBATIM)
		list(APPEND sources ${base}.c ${base}.h)
	endforeach()
	set(${out_sources} ${sources} PARENT_SCOPE)
endfunction()
