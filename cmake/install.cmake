# What users get: both forms of the library, the public headers, a CMake package and pkg-config files,
# and the program. Nothing in it names the folder that it was installed to.
include(CMakePackageConfigHelpers)

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/hybridattn)

install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/hybridattn TYPE INCLUDE COMPONENT dev
        FILES_MATCHING PATTERN "*.h")
install(TARGETS hybridattn_static EXPORT hybridattn-static-targets ARCHIVE COMPONENT dev
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS hybridattn_shared EXPORT hybridattn-shared-targets
        LIBRARY COMPONENT lib NAMELINK_COMPONENT dev
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
foreach(form static shared)
  install(EXPORT hybridattn-${form}-targets NAMESPACE hybridattn:: DESTINATION ${package_folder}
          COMPONENT dev)
endforeach()

configure_package_config_file(cmake/hybridattn-config.cmake.in hybridattn-config.cmake
                              INSTALL_DESTINATION ${package_folder} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(hybridattn-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/hybridattn-config.cmake
              ${CMAKE_BINARY_DIR}/hybridattn-config-version.cmake
        DESTINATION ${package_folder} COMPONENT dev)

# Linkers take the shared form of a -l where both are installed: the static one has a file of its own.
file(RELATIVE_PATH pc_prefix ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
foreach(name hybridattn hybridattn-static)
  configure_file(cmake/${name}.pc.in ${name}.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig
          COMPONENT dev)
endforeach()

if(TARGET hybridattn_program)
  install(TARGETS hybridattn_program RUNTIME COMPONENT program)
  if(BUILD_SHARED_LIBS)
    file(RELATIVE_PATH lib_from_bin ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
    set_target_properties(hybridattn_program PROPERTIES INSTALL_RPATH "$ORIGIN/${lib_from_bin}")
  endif()
endif()
install(FILES LICENSE TYPE DOC COMPONENT dev)

include(packages)
