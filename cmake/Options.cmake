# SPDX-License-Identifier: Apache-2.0
# Compiler settings for every target.
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON) # GNU C: cleanup attribute, statement expressions
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_compile_definitions(_GNU_SOURCE)
# version_for(FILE...): the sources that say it; all others need not be compiled again for another.
function(version_for)
	set_property(SOURCE ${ARGN} APPEND PROPERTY
		COMPILE_DEFINITIONS PROJECT_VERSION="${PROJECT_VERSION}")
endfunction()

add_compile_options(-Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes
	-Wpointer-arith -Wformat=2 -Wimplicit-fallthrough -Wno-format-nonliteral
	-fno-strict-aliasing -fstack-protector-strong -fvisibility=hidden)
add_link_options(LINKER:--as-needed,-z,relro,-z,now)
if(CMAKE_BUILD_TYPE STREQUAL "Release" OR CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo")
	add_compile_options(-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
endif()

set(SANITIZE "" CACHE STRING "Sanitizers: address,undefined or thread")
if(SANITIZE)
	add_compile_options(-fsanitize=${SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
	add_link_options(-fsanitize=${SANITIZE})
endif()

find_program(CCACHE ccache)
if(CCACHE)
	set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE})
endif()
