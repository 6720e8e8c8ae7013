// Runs an exported model on sparse rows as RecoE2E's predict_tf.cc would: input 0 is one float32 tensor, flattened
// batch -> row -> column -> channel (NHWC); output 0 comes first. `e2evit export` writes the model and an example row:
//
//   e2e_predict NAME_nhwc.onnx NAME_row.txt [ROW.txt ...]
//
// A row is a text file of `pixel_index pixel_value` lines, as in the columns of our data sets: the flat index
// (channel * height + row) * width + column, and the value in the channel's unit. An empty file is an empty image.
// Prints one line per row: the outputs in the model's order, `name=value[,value...]`.

#include <onnxruntime_cxx_api.h>

#include <cmath>
#include <cstdint>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Shape {
  int64_t height, width, channels;
  int64_t size() const { return height * width * channels; }
};

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

Shape input_shape(const Ort::Session& session, const std::string& path) {
  Ort::AllocatorWithDefaultOptions allocator;
  const auto layout = session.GetModelMetadata().LookupCustomMetadataMapAllocated("layout", allocator);
  if (!layout || std::string(layout.get()) != "nhwc")
    fail(path + ": expected a model with layout nhwc, got " + (layout ? layout.get() : "none") +
         "; use the *_nhwc.onnx file from `e2evit export`");
  const auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  if (shape.size() != 4 || shape[1] <= 0 || shape[2] <= 0 || shape[3] <= 0)
    fail(path + ": expected an input of shape (batch, height, width, channels)");
  return {shape[1], shape[2], shape[3]};
}

// Writes a row into `image`, which must be zero.
void read_row(const std::string& path, const Shape& shape, float* image) {
  std::ifstream file(path);
  if (!file) fail(path + ": cannot be read");
  std::string line;
  for (int64_t number = 1; std::getline(file, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    std::istringstream words(line);
    std::string rest;
    int64_t index;
    float value;
    if (!(words >> index >> value) || (words >> rest) || !std::isfinite(value))
      fail(path + ", line " + std::to_string(number) + ": expected `pixel_index pixel_value`, got `" + line + "`");
    if (index < 0 || index >= shape.size())
      fail(path + ", line " + std::to_string(number) + ": pixel_index " + std::to_string(index) +
           " is outside an image of " + std::to_string(shape.size()) + " pixels");
    const int64_t column = index % shape.width;
    const int64_t row = index / shape.width % shape.height;
    const int64_t channel = index / (shape.width * shape.height);
    image[(row * shape.width + column) * shape.channels + channel] = value;
  }
}

void run(int argc, char** argv) {
  const std::string model = argv[1];
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "e2e_predict");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);  // as in CMSSW
  Ort::Session session(env, model.c_str(), options);
  const Shape shape = input_shape(session, model);

  const int64_t batch = argc - 2;
  std::vector<float> inputs(batch * shape.size(), 0.0f);
  for (int64_t i = 0; i < batch; ++i) read_row(argv[i + 2], shape, inputs.data() + i * shape.size());

  Ort::AllocatorWithDefaultOptions allocator;
  const auto input_name = session.GetInputNameAllocated(0, allocator);
  std::vector<Ort::AllocatedStringPtr> held;
  std::vector<const char*> names;
  for (size_t i = 0; i < session.GetOutputCount(); ++i) {
    held.push_back(session.GetOutputNameAllocated(i, allocator));
    names.push_back(held.back().get());
  }
  const std::vector<int64_t> dimensions = {batch, shape.height, shape.width, shape.channels};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto tensor =
      Ort::Value::CreateTensor<float>(memory, inputs.data(), inputs.size(), dimensions.data(), dimensions.size());
  const char* input_names[] = {input_name.get()};
  const auto outputs = session.Run(Ort::RunOptions{nullptr}, input_names, &tensor, 1, names.data(), names.size());

  std::cout << std::setprecision(9);
  for (int64_t i = 0; i < batch; ++i) {
    for (size_t j = 0; j < outputs.size(); ++j) {
      const int64_t width = outputs[j].GetTensorTypeAndShapeInfo().GetShape().at(1);
      const float* values = outputs[j].GetTensorData<float>() + i * width;
      std::cout << (j ? " " : "") << names[j] << "=";
      for (int64_t k = 0; k < width; ++k) std::cout << (k ? "," : "") << values[k];
    }
    std::cout << "\n";
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: e2e_predict NAME_nhwc.onnx ROW.txt [ROW.txt ...]\n";
    return 2;
  }
  try {
    run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "e2e_predict: " << error.what() << "\n";
    return 1;
  }
}
