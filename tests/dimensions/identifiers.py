"""
Made-up personal identifiers of every shape the detectors know, and harmless values that look a little like them.
"""

from __future__ import annotations

import base64
import ipaddress
import string
import uuid
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BASE62 = string.ascii_letters + string.digits


def _digits(random: Random, count: int) -> str:
    return "".join(random.choices(string.digits, k=count))


def _email(random: Random) -> str:
    local = "".join(random.choices(string.ascii_letters + string.digits + "._%+-'", k=random.randint(1, 12)))
    return f"{local}@{random.choice(['example.com', 'mail.example.co.uk', 'x-y.example.info', 'exämple.de'])}"


def _ipv4(random: Random) -> str:
    return str(ipaddress.IPv4Address(random.getrandbits(32)))


def _ipv6(random: Random) -> ipaddress.IPv6Address:
    # Runs of zeros, so that the compressed form is found at the front, in the middle and at the end.
    groups = [random.choice([0, 0, random.getrandbits(16)]) for _ in range(7)]
    return ipaddress.IPv6Address(int.from_bytes(b"".join(g.to_bytes(2, "big") for g in [*groups, 7]), "big"))


def _uuid(random: Random) -> uuid.UUID:
    return uuid.UUID(int=random.getrandbits(128), version=4)


def _phone(random: Random) -> str:
    separator = random.choice(["", " ", "-", "."])
    return "+" + separator.join([random.choice(["1", "44", "49", "351"]), _digits(random, 3), _digits(random, 6)])


def _us_phone(random: Random) -> str:
    area, exchange, line = f"{random.randint(200, 999)}", _digits(random, 3), _digits(random, 4)
    return random.choice([f"({area}) {exchange}-{line}", f"{area}-{exchange}-{line}", f"{area}.{exchange}.{line}"])


def _trunk_phone(random: Random) -> str:
    start = f"0{random.randint(1, 9)}"
    pairs = [_digits(random, 2) for _ in range(4)]
    return random.choice([start + "".join(pairs), " ".join([start, *pairs]), f"{start}{pairs[0]}/{''.join(pairs)}"])


def _card(random: Random) -> str:
    number = random.choice("23456") + _digits(random, 14)
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in number[::2])
    number += str(-(doubled + sum(map(int, number[1::2]))) % 10)
    separator = random.choice(["", " ", "-"])
    return separator.join(number[start : start + 4] for start in range(0, 16, 4))


def _jwt(random: Random) -> str:
    parts = [b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"%d"}' % random.getrandbits(40), random.randbytes(32)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def _aws_secret(random: Random) -> str:
    return "".join(random.choices(BASE62 + "/+", k=40))


SHAPES: dict[str, Callable[[Random], str]] = {
    "e-mail": _email,
    "e-mail in capitals": lambda random: _email(random).upper(),
    "e-mail, percent-encoded": lambda random: "x" + _email(random).replace("%", "").replace("@", "%40"),
    "IPv4": _ipv4,
    "IPv4 with port": lambda random: f"{_ipv4(random)}:{random.randint(1, 65535)}",
    "IPv6, compressed": lambda random: str(_ipv6(random)),
    "IPv6, exploded": lambda random: _ipv6(random).exploded.upper(),
    "IPv6 of IPv4": lambda random: f"::ffff:{_ipv4(random)}",
    "IPv6 with zone": lambda random: f"fe80::{random.getrandbits(15):x}%eth0",
    "MAC": lambda random: random.choice(":-").join(f"{byte:02x}" for byte in random.randbytes(6)),
    "UUID": lambda random: str(_uuid(random)),
    "UUID in capitals": lambda random: str(_uuid(random)).upper(),
    "UUID without dashes": lambda random: _uuid(random).hex,
    "phone, international": _phone,
    "phone, US": _us_phone,
    "phone with a leading zero": _trunk_phone,
    "US social security number": lambda random: f"{_digits(random, 3)}-{_digits(random, 2)}-{_digits(random, 4)}",
    "card": _card,
    "JWT": _jwt,
    "AWS access key id": lambda random: random.choice(["AKIA", "ASIA"]) + "".join(random.choices(BASE62.upper(), k=16)),
    "AWS secret access key": _aws_secret,
    "credentials": lambda random: f"postgres://app:{_digits(random, 8)}@db/churn",
}

CONTEXTS = ("{}", "user={}", "/users/{}/x", "user_{}_seen", "seen {}, twice", "[{}]", '{{"id": "{}"}}')


def corpus(count: int, seed: int = 1) -> Iterator[tuple[str, str, str]]:
    """Make identifiers: shape, raw identifier, and a value that contains it."""
    random = Random(seed)
    shapes = list(SHAPES.items())
    for number in range(count):
        name, make = shapes[number % len(shapes)]
        raw = make(random)
        yield name, raw, random.choice(CONTEXTS).format(raw)


ORDINARY = """
api  /upload  us-east-1  us-east-1a  eu-central-1  v1.2.3  1.2.3  v1.2.3.4  2.0.0-rc.1+build.5  1.2.3+20240131  200  404  7043
20240131  2024-01-31  31.01.2024  01/31/2024  2024-01-31T10:00:00Z  2024-01-31T10:00:00.123456+00:00  12:30:45  10:30
1700000000  1700000000000  10K-100K  1-5MB  100-1000  < 1MB  > 100K  2xx  0.5  3.14159265358979  1.0123456789  1e-07  -42  100%  50.5%
true  false  none  unknown  other  bucket-a7  k2-a7  GET  application/json  text/html; charset=utf-8  gzip, deflate, br
MissingColumns  botocore.exceptions.ClientError  std::vector  Foo::Bar  ns::http::Client  ValueError: bad input  a@b  react@18.2.0
ml.m5.xlarge  i-0abcdef1234567890  i-0123456789abcdef0  subnet-0123abcd  arn:aws:sqs:us-east-1:123456789012:jobs
claude-3-5-sonnet-20240620  gpt-4-0613  churn-v12  resnet50  python3.11.7  CPython-3.12.1  nginx/1.25.3  s3://bucket/key
9fceb02d0ae598e95dc970b74767f19372d61af8  shard-00001  partition-017  worker-3-of-12  ip-10-0-0-12  k8s-node-7f9c
Europe/Berlin  de-DE,en;q=0.9  UTC+01:00  0-17  18-24  65+  $10-$20  a/b/c/d  /v1/customers/{id}/churn  #ff8800  C++
/Retainwise/Api/V1/Customers/ChurnReport  uploads/2024/01/31/CustomerChurn/Report.csv  GetCustomerPredictionsForRegion
http://localhost:8000/upload  redis://cache:6379/0  month-to-month  Electronic check  1 year  p99.9  error: timeout after 30 s
""".replace("\n", "  ").strip()


def ordinary() -> list[str]:
    """Harmless values: names, versions, dates, numbers, ranges, instance names."""
    return [value.strip() for value in ORDINARY.split("  ") if value.strip()]
