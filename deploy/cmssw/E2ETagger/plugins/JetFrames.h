// Images of jets as RecoE2E's JetFrameProducer makes them, flattened for our *_nchw.onnx files.

#ifndef E2E_E2ETagger_plugins_JetFrames_h
#define E2E_E2ETagger_plugins_JetFrames_h

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "FWCore/Utilities/interface/Exception.h"

namespace e2evit {

using Frame = std::vector<std::vector<std::vector<float>>>;  // channel, row (eta), column (phi)
using Frames = std::vector<Frame>;                           // one for each jet; e2e::Frame4D of RecoE2E
using Seeds = std::vector<std::vector<float>>;               // row and column of each jet; e2e::Frame2D

constexpr float kNoImage = -1.f;  // what a jet without an image gets, as in RecoE2E

// Jets that have an image. The others, too close to the edge of the detector, have a seed of -1 and an image of zeros.
inline std::vector<std::size_t> withSeed(const Seeds& seeds, const Frames& frames) {
  if (seeds.size() != frames.size())
    throw cms::Exception("E2ETagger") << seeds.size() << " seeds of " << frames.size() << " images";
  std::vector<std::size_t> jets;
  for (std::size_t jet = 0; jet < seeds.size(); ++jet)
    if (std::all_of(seeds[jet].begin(), seeds[jet].end(), [](float place) { return place >= 0; })) jets.push_back(jet);
  return jets;
}

// Appends an image of `size` values, flattened channel -> row -> column. `channels` says where in the frame each
// channel of the model is: frames have an order of their own.
inline void append(const Frame& frame, const std::vector<unsigned>& channels, std::size_t size,
                   std::vector<float>& values) {
  const std::size_t before = values.size();
  for (const unsigned channel : channels) {
    if (channel >= frame.size())
      throw cms::Exception("E2ETagger") << "channel " << channel << " of a frame of " << frame.size();
    for (const auto& row : frame[channel]) values.insert(values.end(), row.begin(), row.end());
  }
  if (values.size() - before != size)
    throw cms::Exception("E2ETagger") << "the model's images have " << size << " values, this frame "
                                      << values.size() - before;
}

// `width` values of each of `number` jets: those of `jets`, in their order, are in `values`.
template <typename Values>
std::unique_ptr<std::vector<float>> perJet(std::size_t number, const std::vector<std::size_t>& jets, std::size_t width,
                                           const Values& values) {
  auto product = std::make_unique<std::vector<float>>(number * width, kNoImage);
  for (std::size_t place = 0; place < jets.size(); ++place)
    std::copy_n(values(place), width, product->begin() + jets[place] * width);
  return product;
}

}  // namespace e2evit

#endif
