// Inference of whole residual branches in bfloat16 on processors with AMX; `modeling_kernels.py` builds this file and
// decides when to use it.
//
// A branch reads and writes its tokens once; intermediate results stay in a core's cache. Sums are float32, rounded
// where a matrix product reads them and at the end. Widths are multiples of 32.
//
// Letters as in the models: B images, H x W grid, D width. A weight (N, K) comes as panels (N / 32, K / 2, 32, 2);
// vectors are float32.

#include <torch/library.h>

#include "attention.h"
#include "convolution.h"
#include "mlp.h"

TORCH_LIBRARY_FRAGMENT(E2EVIT_NAMESPACE, library) {
  library.def(R"(mlp(
      Tensor x, Tensor norm_weight, Tensor norm_bias, float eps,
      Tensor panels1, Tensor bias1, Tensor panels2, Tensor bias2, Tensor gamma) -> Tensor)");
  library.def(R"(project(
      Tensor x, Tensor norm_weight, Tensor norm_bias, float eps, Tensor panels, Tensor bias) -> Tensor)");
  library.def(R"(project_back(
      Tensor x, Tensor context, Tensor panels, Tensor bias, Tensor gamma) -> Tensor)");
  library.def(R"(window_attention(
      Tensor x, Tensor norm_weight, Tensor norm_bias, float eps, Tensor panels_qkv, Tensor bias_qkv,
      Tensor panels, Tensor bias, int num_heads, int side) -> Tensor)");
  library.def(R"(linear_attention(
      Tensor x, Tensor norm_weight, Tensor norm_bias, float eps, Tensor panels_qkv, Tensor bias_qkv,
      Tensor key_weight, Tensor temperature, float floor, Tensor panels, Tensor bias) -> Tensor)");
  library.def("depthwise(Tensor x, Tensor kernel, Tensor bias, int side) -> Tensor");
  library.def("depthwise_gradient(Tensor gradient, Tensor x, int side) -> Tensor");
  library.def(R"(local_interaction(
      Tensor x, Tensor norm_weight, Tensor norm_bias, float eps, Tensor kernel1, Tensor bias1, Tensor scale,
      Tensor shift, Tensor kernel2, Tensor bias2, Tensor gamma, int side) -> Tensor)");
}

TORCH_LIBRARY_IMPL(E2EVIT_NAMESPACE, CPU, library) {
  library.impl("mlp", &e2evit::mlp);
  library.impl("project", &e2evit::project);
  library.impl("project_back", &e2evit::project_back);
  library.impl("window_attention", &e2evit::window_attention);
  library.impl("linear_attention", &e2evit::linear_attention);
  library.impl("depthwise", &e2evit::depthwise);
  library.impl("depthwise_gradient", &e2evit::depthwise_gradient);
  library.impl("local_interaction", &e2evit::local_interaction);
}
