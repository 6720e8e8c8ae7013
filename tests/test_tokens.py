"""Which text is a credential."""

import pytest

from e2evit.hub.tokens import check_tokens, hide_tokens

LETTERS, HEX = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789", "0123456789abcdef0123456789abcdef01234567"
TOKENS = {
    "hub": f"hf_{LETTERS}",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "aws-secret": f"aws_secret_access_key = {HEX}",
    "github": f"ghp_{LETTERS}",
    "github-fine": f"github_pat_{LETTERS}",
    "gitlab": f"glpat-{LETTERS}",
    "google": "AIza" + LETTERS[:35],
    "openai": f"sk-proj-{LETTERS}",
    "slack": "xoxb-123456789012-abcdef",
    "pypi": f"pypi-{LETTERS}",
    "npm": f"npm_{LETTERS}",
    "wandb": f"wandb_v1_{LETTERS}",
    "wandb-old": f'"WANDB_API_KEY": "{HEX}"',
    "wandb-netrc": f"machine api.wandb.ai login user password {HEX}",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4",
    "key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "slack-webhook": f"https://hooks.slack.com/services/T00000000/B00000000/{LETTERS}",
    "discord-webhook": f"https://discord.com/api/webhooks/123456789012345678/{LETTERS}{LETTERS}",
    "stripe": f"sk_live_{LETTERS}",
    "azure": f"AccountName=jets;AccountKey={LETTERS}{LETTERS}==",
    "signature": f"https://bucket.example.org/jets.h5?X-Amz-Signature={HEX[:32]}{HEX[:32]}",
    "bearer": f"Authorization: Bearer {LETTERS}",
    "address": "https://user:secret@example.org/data",
}


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_tokens(token):
    with pytest.raises(ValueError, match=r"^holds what looks like an? [\w &]+ \(") as raised:
        check_tokens(f"text {token} text".encode())
    assert token not in str(raised.value)
    secret = token.rsplit(" ", 1)[-1].strip('"')
    assert secret not in hide_tokens(f"refused: {token}.")


@pytest.mark.parametrize(
    "text",
    [HEX, "hf_hub_download(repo_id)", "mask-image-classification-2026", "arxiv:2111.06377", "https://a.org:80/x@y"],
)
def test_text_that_is_no_token(text):
    check_tokens(text.encode())
