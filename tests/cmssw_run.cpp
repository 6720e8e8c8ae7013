// Both producers on one event of three jets, the second without an image: prints the products, or what is wrong.
#include "E2EJetProducer.cc"
#include "E2EJetSonicProducer.cc"

template <typename Producer>
edm::ParameterSet configured(const std::vector<unsigned>& channels, const std::vector<std::string>& outputs) {
  edm::ConfigurationDescriptions descriptions;
  Producer::fillDescriptions(descriptions);
  edm::ParameterSet config = descriptions.description.defaults;
  config.values["channels"] = channels;
  config.values["model"] = edm::FileInPath();
  config.values["imageSize"] = std::vector<unsigned>{2, 3};
  config.values["outputs"] = outputs;
  return config;
}

void print(const edm::Event& event) {
  for (const auto& [name, values] : event.products) {
    std::cout << name;
    for (const float value : values) std::cout << " " << value;
    std::cout << std::endl;
  }
}

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const std::vector<unsigned> channels{2, what == "channel" ? 7u : 0u};
  const std::vector<std::string> outputs =
      what == "outputs" ? std::vector<std::string>() : std::vector<std::string>{"signal", "mass"};
  const auto image = [](float pixel) { return e2evit::Frame(3, {{pixel, 0, 0}, {0, 0, pixel}}); };
  e2evit::Frames frames{image(1), image(0), image(3)};
  for (auto& frame : frames) frame[2][0][0] *= 10;
  edm::Event event;
  event.inputs["JetFrames:JetFrames"] = what == "empty" ? e2evit::Frames() : frames;
  event.inputs["JetFrames:JetSeeds"] = what == "empty" ? e2evit::Seeds() : e2evit::Seeds{{5, 6}, {-1, -1}, {7, 8}};
  try {
    if (what != "sonic" && what != "server") {
      const auto config = configured<E2EJetProducer>(channels, outputs);
      const auto cache = E2EJetProducer::initializeGlobalCache(config);
      E2EJetProducer producer(config, cache.get());
      producer.cache = cache.get();
      static_cast<edm::stream::EDProducer<edm::GlobalCache<cms::Ort::ONNXRuntime>>&>(producer).produce(event, {});
      E2EJetProducer::globalEndJob(cache.get());
      print(event);
      event.products.clear();
    }
    E2EJetSonicProducer producer(configured<E2EJetSonicProducer>(channels, outputs));
    E2EJetSonicProducer::Input input;
    input["inputs"].size = 12;
    producer.client_->input = &input.at("inputs");
    if (what == "sonic") producer.client_->max = 1;
    producer.acquire(event, {}, input);
    E2EJetSonicProducer::Output output;
    output["signal"];
    if (what != "server") output["mass"];
    for (const auto& sent : input.at("inputs").sent) {
      output.at("signal").values.push_back(std::accumulate(sent.begin(), sent.end(), 0.f));
      if (output.count("mass")) output.at("mass").values.push_back(sent[0]);
    }
    producer.produce(event, {}, output);
    print(event);
  } catch (const cms::Exception& error) {
    std::cout << error.what() << std::endl;
    return 1;
  }
}
