// Runs an exported model on sparse rows as RecoE2E's predict_tf.cc would: input 0 is one float32 tensor, flattened
// batch -> row -> column -> channel (NHWC); output 0 comes first. `e2evit export` writes the model and an example row:
//
//   e2e_predict NAME_nhwc.onnx NAME_row.txt [ROW.txt ...]
//
// A row is a text file of `pixel_index pixel_value` lines, as in the columns of our data sets: the flat index
// (channel * height + row) * width + column, and the value in the channel's unit. An empty file is an empty image.
// Prints one line per row: the outputs in the model's order, `name=value[,value...]`. Any error, an output that is not
// finite among them, ends with exit code 1 and no line.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
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

constexpr int64_t kMaxPixels = int64_t{1} << 28;  // of an image; 1 GiB
constexpr int64_t kMaxLine = 256;                 // characters

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
  if (session.GetInputCount() != 1) fail(path + ": expected one input");
  const auto type = session.GetInputTypeInfo(0);
  if (type.GetONNXType() != ONNX_TYPE_TENSOR) fail(path + ": expected an input that is a tensor");
  const auto shape = type.GetTensorTypeAndShapeInfo().GetShape();
  if (shape.size() != 4 || std::any_of(shape.begin() + 1, shape.end(), [](int64_t n) { return n < 1; }))
    fail(path + ": expected an input of shape (batch, height, width, channels)");
  int64_t room = kMaxPixels;
  for (int i : {1, 2, 3}) room /= shape[i];
  if (room == 0) fail(path + ": the input has more than " + std::to_string(kMaxPixels) + " pixels");
  return {shape[1], shape[2], shape[3]};
}

// Whether the whole word is a number.
template <typename Number>
bool parse(const std::string& word, Number& number) {
  std::istringstream text(word);
  return (text >> number) && text.peek() == std::istringstream::traits_type::eof();
}

// Writes a row into `image`, which must be zero.
void read_row(const std::string& path, const Shape& shape, float* image) {
  std::ifstream file(path);
  if (!file) fail(path + ": cannot be read");
  std::vector<bool> seen(shape.size());
  std::vector<char> line(kMaxLine);
  for (int64_t number = 1; file.getline(line.data(), kMaxLine); ++number) {
    const std::string place = path + ", line " + std::to_string(number);
    const std::string text(line.data(), file.gcount() - !file.eof());  // without the line break
    std::istringstream words(text);
    std::string first, second, rest;
    if (!(words >> first)) continue;
    int64_t index;
    float value;
    if (!(words >> second) || (words >> rest) || !parse(first, index) || !parse(second, value) || !std::isfinite(value))
      fail(place + ": expected `pixel_index pixel_value`, got `" + text + "`");
    if (index < 0 || index >= shape.size())
      fail(place + ": pixel_index " + first + " is outside an image of " + std::to_string(shape.size()) + " pixels");
    if (seen[index]) fail(place + ": pixel_index " + first + " occurs twice");
    seen[index] = true;
    const int64_t column = index % shape.width;
    const int64_t row = index / shape.width % shape.height;
    const int64_t channel = index / (shape.width * shape.height);
    image[(row * shape.width + column) * shape.channels + channel] = value;
  }
  if (file.bad()) fail(path + ": reading failed; is it a directory?");
  if (!file.eof()) fail(path + ": a line is longer than " + std::to_string(kMaxLine - 1) + " characters");
}

// The values of an output, `width` for each row.
std::vector<float> output_values(const Ort::Value& output, const std::string& name, int64_t batch) {
  if (!output.IsTensor()) fail("output " + name + ": expected a tensor");
  const auto info = output.GetTensorTypeAndShapeInfo();
  const auto shape = info.GetShape();
  if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || shape.size() != 2 || shape[0] != batch ||
      shape[1] < 1)
    fail("output " + name + ": expected float32 of shape (" + std::to_string(batch) + ", width)");
  const float* values = output.GetTensorData<float>();
  return {values, values + info.GetElementCount()};
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

  std::vector<std::ostringstream> lines(batch);
  for (size_t j = 0; j < outputs.size(); ++j) {
    const auto values = output_values(outputs[j], names[j], batch);
    const int64_t width = values.size() / batch;
    for (int64_t i = 0; i < batch; ++i) {
      lines[i] << std::setprecision(9) << (j ? " " : "") << names[j] << "=";
      for (int64_t k = 0; k < width; ++k) {
        const float value = values[i * width + k];
        if (!std::isfinite(value)) fail(std::string(argv[i + 2]) + ": output " + names[j] + " is not finite");
        lines[i] << (k ? "," : "") << value;
      }
    }
  }
  for (const auto& line : lines) std::cout << line.str() << "\n";
  if (!std::cout.flush()) fail("the output cannot be written");
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
