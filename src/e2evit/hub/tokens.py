"""Credentials that must not be published, by what they look like.

`detect-secrets` knows neither the Hub's tokens nor those of Weights & Biases, and its entropy rules refuse every hash.
"""

import re

__all__ = ["check_tokens", "hide_tokens"]

# A key that could be any 40 characters, such as a commit, is one only after its name.
PATTERNS = {
    "a Hub token": r"hf_(?!hub_)[A-Za-z0-9_]{8,}|api_org_[A-Za-z0-9]{30,}",  # `hf_hub_download` is a function
    "an AWS key": r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}|(?i:aws_?secret[a-z_]*)\W{1,5}[A-Za-z0-9/+]{40}",
    "a GitHub token": r"gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}",
    "a GitLab token": r"gl(?:dt|pat|ptt|rt)-[A-Za-z0-9_-]{20,}",
    "a Google key": r"AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}",
    "an OpenAI or Anthropic key": r"(?<![A-Za-z0-9])sk-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{20,}",
    "a Slack token": r"xox[abeoprs]-[A-Za-z0-9-]{10,}",
    "a PyPI token": r"pypi-[A-Za-z0-9_-]{30,}",
    "an npm token": r"npm_[A-Za-z0-9]{36}",
    "a Weights & Biases key": (
        r"wandb_v\d_[A-Za-z0-9_]{20,}|(?i:wandb\w{0,9}(?:key|token))\W{1,5}[0-9a-f]{40}"
        r"|api\.wandb\.ai\W{1,5}(?:\w{1,64}\W{1,5}){1,4}[0-9a-f]{40}"
    ),
    "a webhook": r"hooks\.slack\.com/services/T\w+/B\w+/\w{16,}|discord(?:app)?\.com/api/webhooks/\d{15,}/[\w-]{40,}",
    "a Stripe key": r"[rs]k_(?:live|test)_[A-Za-z0-9]{20,}",
    "an Azure key": r"(?i:AccountKey|SharedAccessKey|[?&]sig)=[A-Za-z0-9+/%]{40,}",
    "a signed address": r"(?i:X-(?:Amz|Goog)-Signature)=[0-9a-f]{64}",
    "a bearer token": r"(?i:bearer)\s+[A-Za-z0-9._~+/-]{20,}",
    "a JSON web token": r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    "a private key": r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY",
    "a password in an address": r"[a-z][a-z0-9+.-]{1,10}://[^\s/:@'\"<>]{1,64}:[^\s/@'\"<>]{3,128}@",
}
_COMPILED = {kind: re.compile(pattern.encode()) for kind, pattern in PATTERNS.items()}


def check_tokens(content: bytes) -> None:
    """Refuse content in which a credential stands in plain text.

    Raises:
        ValueError: naming its kind and its first characters.
    """
    for kind, pattern in _COMPILED.items():
        if match := pattern.search(content):
            shown = match[0][:6].decode(errors="replace")
            raise ValueError(f"holds what looks like {kind} ({shown}...); remove it, and revoke it if it is real.")


def hide_tokens(text: str, *tokens: str | None) -> str:
    """A message without credentials: neither those given, nor any of known form, nor signed addresses."""
    content = text
    for token in filter(None, tokens):
        content = content.replace(token, "***")
    data = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1", content).encode(errors="replace")
    for pattern in _COMPILED.values():
        data = pattern.sub(b"***", data)
    return data.decode()
