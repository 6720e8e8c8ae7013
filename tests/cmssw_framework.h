// What E2ETagger uses of CMSSW, with the signatures of CMSSW 12_4 to 15_0, written for tests: plugins compile and run
// without CMSSW. The network is a sum over the image.
#pragma once

#include <algorithm>
#include <any>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <vector>

namespace cms {
struct Exception : std::runtime_error {
  explicit Exception(const std::string& category) : std::runtime_error(category), text(category + ":") {}
  template <typename T>
  Exception& operator<<(const T& part) {
    std::ostringstream stream;
    stream << part;
    text += " " + stream.str();
    return *this;
  }
  const char* what() const noexcept override { return text.c_str(); }
  std::string text;
};
}  // namespace cms

namespace edm {
struct InputTag {
  InputTag(const std::string& label, const std::string& instance) : name(label + ":" + instance) {}
  std::string name;
};
struct FileInPath {
  std::string fullPath() const { return "model.onnx"; }
};
struct EventSetup {};

struct ParameterSet {
  template <typename T>
  T getParameter(const std::string& name) const {
    return std::any_cast<T>(values.at(name));
  }
  std::map<std::string, std::any> values;
};
struct Node {
  void setComment(const std::string&) {}
};
struct ParameterSetDescription {
  template <typename T>
  Node* add(const std::string& name, const T& value) {
    defaults.values[name] = value;
    return &node;
  }
  template <typename T>
  Node* add(const std::string&) {
    return &node;
  }
  ParameterSet defaults;
  Node node;
};
struct ConfigurationDescriptions {
  void addWithDefaultLabel(const ParameterSetDescription& one) { description = one; }
  ParameterSetDescription description;
};

template <typename T>
struct EDGetTokenT {
  std::string name;
};
struct Event {
  template <typename T>
  const T& get(const EDGetTokenT<T>& token) const {
    return std::any_cast<const T&>(inputs.at(token.name));
  }
  void put(std::unique_ptr<std::vector<float>> product, const std::string& instance) { products[instance] = *product; }
  std::map<std::string, std::any> inputs;
  std::map<std::string, std::vector<float>> products;
};

struct Producer {
  virtual ~Producer() = default;
  template <typename T>
  EDGetTokenT<T> consumes(const InputTag& tag) {
    return {tag.name};
  }
  template <typename T>
  void produces(const std::string&) {}
};
template <typename T>
struct GlobalCache {
  using type = T;
};
namespace stream {
template <typename Cache>
struct EDProducer : Producer {
  const typename Cache::type* globalCache() const { return cache; }
  virtual void produce(Event&, const EventSetup&) = 0;
  const typename Cache::type* cache = nullptr;
};
}  // namespace stream
}  // namespace edm

namespace cms::Ort {
using FloatArrays = std::vector<std::vector<float>>;
struct ONNXRuntime {
  explicit ONNXRuntime(const std::string&) {}
  FloatArrays run(const std::vector<std::string>& names, FloatArrays& values,
                  const std::vector<std::vector<int64_t>>& shapes, const std::vector<std::string>& outputs,
                  int64_t batch) const {
    if (names != std::vector<std::string>{"inputs"} || !shapes.empty() || batch < 1) throw std::logic_error("run");
    FloatArrays results;
    for (size_t output = 0; output < outputs.size(); ++output) {
      results.emplace_back();
      const size_t size = values[0].size() / batch;
      for (int64_t jet = 0; jet < batch; ++jet)  // the first pixel tells the order of channels, the sum the image
        results[output].push_back(
            output ? values[0][jet * size]
                   : std::accumulate(values[0].begin() + jet * size, values[0].begin() + (jet + 1) * size, 0.f));
    }
    return results;
  }
  const std::vector<int64_t>& getOutputShape(const std::string&) const { return shape; }
  std::vector<int64_t> shape{-1, 1};
};
}  // namespace cms::Ort

template <typename T>
using TritonInput = std::vector<std::vector<T>>;
struct Span {
  const float* begin() const { return first; }
  const float* first;
};
template <typename T>
using TritonOutput = std::vector<Span>;
struct TritonInputData {
  template <typename T>
  std::shared_ptr<TritonInput<T>> allocate(bool = true) {
    return std::make_shared<TritonInput<T>>(batch);
  }
  template <typename T>
  void toServer(std::shared_ptr<TritonInput<T>> images) {
    sent = *images;
  }
  int64_t sizeDims() const { return size; }
  int64_t size = 0;
  unsigned batch = 0;
  TritonInput<float> sent;
};
struct TritonOutputData {
  template <typename T>
  TritonOutput<T> fromServer() const {
    TritonOutput<T> rows;
    for (const float& value : values) rows.push_back({&value});
    return rows;
  }
  int64_t sizeDims() const { return 1; }
  std::vector<float> values;
};
struct TritonClient {
  static void fillPSetDescription(edm::ParameterSetDescription& description) {
    description.add<edm::ParameterSet>("Client", {});
  }
  bool setBatchSize(unsigned size) {
    if (size > max) return false;
    input->batch = size;
    return true;
  }
  unsigned max = 64;
  TritonInputData* input = nullptr;
};
template <typename...>
struct TritonEDProducer : edm::Producer {
  using Input = std::unordered_map<std::string, TritonInputData>;
  using Output = std::unordered_map<std::string, TritonOutputData>;
  explicit TritonEDProducer(const edm::ParameterSet&) : client_(std::make_unique<TritonClient>()) {}
  virtual void acquire(const edm::Event&, const edm::EventSetup&, Input&) = 0;
  virtual void produce(edm::Event&, const edm::EventSetup&, const Output&) = 0;
  std::unique_ptr<TritonClient> client_;
};

#define DEFINE_FWK_MODULE(name) static_assert(std::is_base_of_v<edm::Producer, name>)
