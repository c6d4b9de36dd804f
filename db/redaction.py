"""What must not be told: passwords and signatures in URLs, wherever a text that is shown or stored quotes one.

Whoever builds a message leaves them out; this is for texts of libraries and servers, which quote what they like.
"""

import re

HIDDEN = "***"

# user:password@ of a URL; the password may hold anything but what ends it.
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/?#@'\"]*:)[^\s/'\"]+(?=@)", re.IGNORECASE)
# Settings of libpq, in a URL's query or as words, and what signs a request to a store.
_SETTING = re.compile(
    r"((?:\b|(?<=_))(?:password|passwd|sslpassword|passfile|secret|token|x-amz-signature|x-amz-credential|"
    r"x-amz-security-token|aws_secret_access_key|aws_session_token)=)(?:'[^']*'|[^\s&'\"]+)",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """A text with `***` for the passwords and signatures in it."""
    return _SETTING.sub(rf"\g<1>{HIDDEN}", _USER.sub(rf"\g<1>{HIDDEN}", text))
