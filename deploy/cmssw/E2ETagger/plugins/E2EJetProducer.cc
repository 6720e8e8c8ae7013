// Probabilities and masses of jets from a *_nchw.onnx file, with CMSSW's own ONNX Runtime.
//
// Never compiled against CMSSW itself: written for the interfaces of CMSSW 11_2 to 15_0. `run` of earlier releases has no
// shapes: leave out its third argument. Export the file for the release: `e2evit export ... --cmssw 13_0`.

#include <memory>
#include <string>
#include <vector>

#include "FWCore/Framework/interface/Event.h"
#include "FWCore/Framework/interface/MakerMacros.h"
#include "FWCore/Framework/interface/stream/EDProducer.h"
#include "FWCore/ParameterSet/interface/ConfigurationDescriptions.h"
#include "FWCore/ParameterSet/interface/FileInPath.h"
#include "FWCore/ParameterSet/interface/ParameterSet.h"
#include "FWCore/ParameterSet/interface/ParameterSetDescription.h"
#include "FWCore/Utilities/interface/EDGetToken.h"
#include "FWCore/Utilities/interface/Exception.h"
#include "FWCore/Utilities/interface/InputTag.h"
#include "JetFrames.h"
#include "PhysicsTools/ONNXRuntime/interface/ONNXRuntime.h"

class E2EJetProducer : public edm::stream::EDProducer<edm::GlobalCache<cms::Ort::ONNXRuntime>> {
 public:
  E2EJetProducer(const edm::ParameterSet& config, const cms::Ort::ONNXRuntime*)
      : frames_(consumes<e2evit::Frames>(config.getParameter<edm::InputTag>("frames"))),
        seeds_(consumes<e2evit::Seeds>(config.getParameter<edm::InputTag>("seeds"))),
        channels_(config.getParameter<std::vector<unsigned>>("channels")),
        imageSize_(config.getParameter<std::vector<unsigned>>("imageSize")),
        outputs_(config.getParameter<std::vector<std::string>>("outputs")) {
    if (imageSize_.size() != 2) throw cms::Exception("Configuration") << "imageSize is the number of rows and columns";
    if (outputs_.empty()) throw cms::Exception("Configuration") << "outputs names none of the model's outputs";
    for (const auto& output : outputs_) produces<std::vector<float>>(output);
  }

  // one session for all streams: running it changes nothing
  static std::unique_ptr<cms::Ort::ONNXRuntime> initializeGlobalCache(const edm::ParameterSet& config) {
    return std::make_unique<cms::Ort::ONNXRuntime>(config.getParameter<edm::FileInPath>("model").fullPath());
  }

  static void globalEndJob(const cms::Ort::ONNXRuntime*) {}

  static void fillDescriptions(edm::ConfigurationDescriptions& descriptions) {
    edm::ParameterSetDescription description;
    description.add<edm::InputTag>("frames", edm::InputTag("JetFrames", "JetFrames"));
    description.add<edm::InputTag>("seeds", edm::InputTag("JetFrames", "JetSeeds"));
    description.add<edm::FileInPath>("model");
    description.add<std::vector<unsigned>>("channels")->setComment("Place of each of the model's channels in a frame.");
    description.add<std::vector<unsigned>>("imageSize", std::vector<unsigned>{125, 125});
    description.add<std::vector<std::string>>("outputs", std::vector<std::string>{"signal", "mass"});
    descriptions.addWithDefaultLabel(description);
  }

 private:
  void produce(edm::Event& event, const edm::EventSetup&) override {
    const auto& frames = event.get(frames_);
    const auto jets = e2evit::withSeed(event.get(seeds_), frames);
    const std::size_t size = channels_.size() * imageSize_[0] * imageSize_[1];
    cms::Ort::FloatArrays images(1), results(outputs_.size());
    images[0].reserve(jets.size() * size);
    for (const auto jet : jets) e2evit::append(frames[jet], channels_, size, images[0]);
    if (!jets.empty())  // a batch has one jet at least; other axes than the batch are fixed, so that shapes stay empty
      results = globalCache()->run({"inputs"}, images, {}, outputs_, jets.size());
    for (std::size_t output = 0; output < outputs_.size(); ++output) {
      const std::size_t width = globalCache()->getOutputShape(outputs_[output]).at(1);  // (batch, width)
      const auto of = [&](std::size_t place) { return results[output].begin() + place * width; };
      event.put(e2evit::perJet(frames.size(), jets, width, of), outputs_[output]);
    }
  }

  const edm::EDGetTokenT<e2evit::Frames> frames_;
  const edm::EDGetTokenT<e2evit::Seeds> seeds_;
  const std::vector<unsigned> channels_;
  const std::vector<unsigned> imageSize_;
  const std::vector<std::string> outputs_;
};

DEFINE_FWK_MODULE(E2EJetProducer);
