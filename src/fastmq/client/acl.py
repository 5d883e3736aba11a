"""Signing requests for brokers and name servers with access control (RocketMQ's AclClientRPCHook)."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastmq.protocol._json_text import to_utf8
from fastmq.protocol.command import Command


@dataclass(frozen=True, slots=True)
class Credentials:
    """An account: with RocketMQ 5 the user's name and password. `security_token` is of temporary accounts."""

    access_key: str
    secret_key: str = field(repr=False)
    security_token: str | None = field(default=None, repr=False)

    def sign(self, request: Command) -> None:
        """Add the account and the signature to the ext fields, over all fields and the body."""
        ext = request.ext
        ext["AccessKey"] = self.access_key
        if self.security_token:
            ext["SecurityToken"] = self.security_token
        ext["Signature"] = signature(self.secret_key, ext, request.body)


def signature(secret_key: str, ext: Mapping[str, str], body: bytes) -> str:
    """Base64 of HmacSHA1 over the values in the order of their keys, then the body."""
    # Java compares UTF-16 code units; keys are ASCII, where that is the order of Python
    values = "".join(ext[key] for key in sorted(ext) if key != "Signature")
    digest = hmac.digest(secret_key.encode(), to_utf8(values) + body, "sha1")
    return base64.b64encode(digest).decode("ascii")
