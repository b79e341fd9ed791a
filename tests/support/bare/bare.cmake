# SPDX-License-Identifier: Apache-2.0
# bare_guest(TARGET FILE SOURCE): a multiboot program for qemu-system-x86_64, which has no
# library, no sanitizer and no red zone. Nothing is made on other machines.
function(bare_guest target file source)
	if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
		return()
	endif()
	set(bare ${PROJECT_SOURCE_DIR}/tests/support/bare)
	set(flags -m32 -std=gnu17 -O2 -g0 -ffreestanding -fno-pic -mgeneral-regs-only
		-fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -Wall -Wextra
		-Werror -Wmissing-prototypes -Wstrict-prototypes -Wshadow -nostdlib -static
		-Wl,--build-id=none -Wl,-z,noexecstack -Wl,-m,elf_i386 -Wl,-T,${bare}/link.ld
		-I${PROJECT_SOURCE_DIR}/tests)
	add_custom_command(OUTPUT ${file}
		COMMAND ${CMAKE_C_COMPILER} ${flags} -o ${file} ${bare}/start.S ${source}
		DEPENDS ${bare}/start.S ${bare}/serial.h ${bare}/link.ld ${source} VERBATIM)
	add_custom_target(${target} ALL DEPENDS ${file})
endfunction()
