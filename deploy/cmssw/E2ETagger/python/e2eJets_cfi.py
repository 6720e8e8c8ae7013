"""Jets by an ONNX file in `E2E/E2ETagger/data`. Not run here."""

import FWCore.ParameterSet.Config as cms

e2eJets = cms.EDProducer(
    "E2EJetProducer",
    frames=cms.InputTag("JetFrames", "JetFrames"),
    seeds=cms.InputTag("JetFrames", "JetSeeds"),
    model=cms.FileInPath("E2E/E2ETagger/data/linearvit_nchw.onnx"),
    # `channel_names` of the file's metadata, by their places in JetFrames
    channels=cms.vuint32(2, 3, 4, 1, 0, 6, 7, 8),
    imageSize=cms.vuint32(125, 125),
    outputs=cms.vstring("signal", "mass"),
)
