"""
What boto3 needs to talk to a fake, which is nothing, and to nobody else.
"""

from __future__ import annotations

import os


def use_credentials_of_nobody() -> None:
    """
    The fake takes any; real ones must not be needed, nor looked for on the network.
    """
    os.environ.update(AWS_ACCESS_KEY_ID="bench", AWS_SECRET_ACCESS_KEY="bench", AWS_EC2_METADATA_DISABLED="true")
    os.environ.pop("AWS_PROFILE", None)
