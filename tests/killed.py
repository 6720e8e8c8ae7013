"""A training that is killed again and again."""

import torch

from e2evit.training.state import RunState


def resume_until_done(run, monkeypatch):
    """What `run` returns in the end; it resumes, and is killed after every third state that it saves."""
    saved, save = 0, RunState.save

    def killed(self):
        nonlocal saved
        save(self)
        saved += 1
        if saved % 3 == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunState, "save", killed)
    for _ in range(20):
        try:
            done = run()
        except KeyboardInterrupt:
            torch.rand(7)  # whatever else advances the random numbers
        else:
            assert saved > 4
            return done
    raise AssertionError("the training does not get to its end")
