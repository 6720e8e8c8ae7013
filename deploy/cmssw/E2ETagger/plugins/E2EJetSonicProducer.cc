// As E2EJetProducer, with a Triton server that runs the model: `e2evit export ... --triton` writes what it loads.
//
// Never compiled against CMSSW itself: written for the interfaces of CMSSW 12_4 to 15_0.

#include <memory>
#include <string>
#include <vector>

#include "FWCore/Framework/interface/Event.h"
#include "FWCore/Framework/interface/MakerMacros.h"
#include "FWCore/ParameterSet/interface/ConfigurationDescriptions.h"
#include "FWCore/ParameterSet/interface/ParameterSet.h"
#include "FWCore/ParameterSet/interface/ParameterSetDescription.h"
#include "FWCore/Utilities/interface/EDGetToken.h"
#include "FWCore/Utilities/interface/Exception.h"
#include "FWCore/Utilities/interface/InputTag.h"
#include "HeterogeneousCore/SonicTriton/interface/TritonEDProducer.h"
#include "JetFrames.h"

class E2EJetSonicProducer : public TritonEDProducer<> {
 public:
  explicit E2EJetSonicProducer(const edm::ParameterSet& config)
      : TritonEDProducer<>(config),
        frames_(consumes<e2evit::Frames>(config.getParameter<edm::InputTag>("frames"))),
        seeds_(consumes<e2evit::Seeds>(config.getParameter<edm::InputTag>("seeds"))),
        channels_(config.getParameter<std::vector<unsigned>>("channels")),
        outputs_(config.getParameter<std::vector<std::string>>("outputs")) {
    if (outputs_.empty()) throw cms::Exception("Configuration") << "outputs names none of the model's outputs";
    for (const auto& output : outputs_) produces<std::vector<float>>(output);
  }

  void acquire(const edm::Event& event, const edm::EventSetup&, Input& inputs) override {
    const auto& frames = event.get(frames_);
    jets_ = e2evit::withSeed(event.get(seeds_), frames);
    // without a jet nothing is sent
    if (!client_->setBatchSize(jets_.size()))
      throw cms::Exception("E2ETagger") << jets_.size() << " jets are more than max_batch_size of config.pbtxt";
    if (jets_.empty()) return;
    auto& input = inputs.at("inputs");
    auto images = input.allocate<float>();
    for (std::size_t place = 0; place < jets_.size(); ++place)
      e2evit::append(frames[jets_[place]], channels_, input.sizeDims(), (*images)[place]);
    input.toServer(images);
  }

  void produce(edm::Event& event, const edm::EventSetup&, const Output& results) override {
    const std::size_t number = event.get(frames_).size();
    for (const auto& name : outputs_) {
      const auto found = results.find(name);
      if (found == results.end())
        throw cms::Exception("Configuration") << "the client does not ask for output " << name;
      const auto& result = found->second;
      TritonOutput<float> values;
      if (!jets_.empty()) values = result.fromServer<float>();
      const auto of = [&](std::size_t place) { return values[place].begin(); };
      event.put(e2evit::perJet(number, jets_, result.sizeDims(), of), name);
    }
  }

  static void fillDescriptions(edm::ConfigurationDescriptions& descriptions) {
    edm::ParameterSetDescription description;
    TritonClient::fillPSetDescription(description);
    description.add<edm::InputTag>("frames", edm::InputTag("JetFrames", "JetFrames"));
    description.add<edm::InputTag>("seeds", edm::InputTag("JetFrames", "JetSeeds"));
    description.add<std::vector<unsigned>>("channels")->setComment("Place of each of the model's channels in a frame.");
    // products must not depend on the untracked `outputs` of the client, which only saves traffic
    description.add<std::vector<std::string>>("outputs", std::vector<std::string>{"signal", "mass"});
    descriptions.addWithDefaultLabel(description);
  }

 private:
  const edm::EDGetTokenT<e2evit::Frames> frames_;
  const edm::EDGetTokenT<e2evit::Seeds> seeds_;
  const std::vector<unsigned> channels_;
  const std::vector<std::string> outputs_;
  std::vector<std::size_t> jets_;  // of the event between acquire and produce
};

DEFINE_FWK_MODULE(E2EJetSonicProducer);
