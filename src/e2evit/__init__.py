"""Linear-attention vision transformers for CMS end-to-end (E2E) detector images."""

__version__ = "0.1.0"
