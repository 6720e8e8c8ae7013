"""Jets by a Triton server, with the model in `E2E/E2ETagger/data/models`. Not run here."""

import FWCore.ParameterSet.Config as cms

e2eJetsSonic = cms.EDProducer(
    "E2EJetSonicProducer",
    Client=cms.PSet(
        mode=cms.string("Async"),
        modelName=cms.string("linearvit"),
        modelVersion=cms.string(""),
        modelConfigPath=cms.FileInPath("E2E/E2ETagger/data/models/linearvit/config.pbtxt"),
        preferredServer=cms.untracked.string(""),
        timeout=cms.untracked.uint32(30),
        outputs=cms.untracked.vstring("signal", "mass"),
    ),
    frames=cms.InputTag("JetFrames", "JetFrames"),
    seeds=cms.InputTag("JetFrames", "JetSeeds"),
    # `channel_names` of the file's metadata, by their places in JetFrames
    channels=cms.vuint32(2, 3, 4, 1, 0, 6, 7, 8),
    outputs=cms.vstring("signal", "mass"),
)
