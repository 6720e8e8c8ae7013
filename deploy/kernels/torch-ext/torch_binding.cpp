// Makes the library a Python module; `kernels/kernels.cpp` registers its operators.
#include "registration.h"

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
