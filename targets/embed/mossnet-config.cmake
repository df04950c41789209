# find_package(mossnet) gives mossnet::mossnet, the shared library, and mossnet::static.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
get_filename_component(mossnet_root "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

if(NOT TARGET mossnet::mossnet)
  add_library(mossnet::mossnet SHARED IMPORTED)
  set_target_properties(mossnet::mossnet PROPERTIES
    IMPORTED_LOCATION "${mossnet_root}/lib/libmossnet.so"
    INTERFACE_INCLUDE_DIRECTORIES "${mossnet_root}/include")
  add_library(mossnet::static STATIC IMPORTED)
  set_target_properties(mossnet::static PROPERTIES
    IMPORTED_LOCATION "${mossnet_root}/lib/libmossnet.a"
    INTERFACE_INCLUDE_DIRECTORIES "${mossnet_root}/include"
    INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS}")
endif()
