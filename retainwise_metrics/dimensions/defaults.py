"""
The default rules and detectors: one table each, both documented in `docs/dimensions.md`.
"""

from __future__ import annotations

from typing import Final

from retainwise_metrics.dimensions.bucketing import HASHED, NumberBuckets, PathTemplate, Rule, StatusClass
from retainwise_metrics.dimensions.pii import Detector, contains_card_number

RULES: Final[tuple[Rule, ...]] = (
    # People, and the accounts they act for.
    Rule("User", "*UserId", "Uid", "*CustomerId", "*ClientId", "*AccountId", "*MemberId", "*PersonId", becomes=HASHED),
    Rule("*SubscriberId", "*EmployeeId", "*PatientId", "*ContactId", "*VisitorId", "*ProfileId", becomes=HASHED),
    Rule("Tenant", "*TenantId", "*OrgId", "*OrganizationId", "*OrganisationId", "*OwnerId", becomes=HASHED),
    Rule("*Email", "*EmailAddress", "*Phone", "*PhoneNumber", "*MobileNumber", "*Telephone", becomes=HASHED),
    Rule("*FirstName", "*MiddleName", "*LastName", "*GivenName", "*FamilyName", "*Surname", becomes=HASHED),
    Rule("*FullName", "*UserName", "*DisplayName", "*NickName", "*PersonName", "Login", becomes=HASHED),
    Rule("*CustomerName", "*ContactName", "*StreetAddress", "*PostalAddress", "*HomeAddress", becomes=HASHED),
    Rule("*PostalCode", "*PostCode", "*ZipCode", "*DateOfBirth", "*BirthDate", "*Birthday", "Dob", becomes=HASHED),
    Rule("*Ssn", "*SocialSecurityNumber", "*PassportNumber", "*CardNumber", "*CreditCard", "*Iban", becomes=HASHED),
    # Devices and addresses.
    Rule("Ip", "*IpAddress", "*IpAddr", "*ClientIp", "*RemoteIp", "*SourceIp", "*PeerIp", "*RealIp", becomes=HASHED),
    Rule("*RemoteAddr", "*RemoteAddress", "*ClientAddr", "*ClientAddress", "*ForwardedFor", becomes=HASHED),
    Rule("*DeviceId", "*MacAddress", "*Imei", "*AdvertisingId", "*Fingerprint", "*UserAgent", becomes=HASHED),
    # One request, one file, one purchase: not a person, but one step from them, and a new value every time.
    Rule("*UploadId", "*FileId", "*FileName", "*ObjectKey", "*JobId", "*MessageId", becomes=HASHED),
    Rule("*SessionId", "*RequestId", "*CorrelationId", "*TraceId", "*SpanId", becomes=HASHED),
    Rule("*TransactionId", "*OrderId", "*InvoiceId", "*PaymentId", becomes=HASHED),
    # Secrets do not belong here at all.
    Rule("*Password", "*Secret", "*Token", "*ApiKey", "*AccessKey", "*AccessKeyId", "*Cookie", becomes=HASHED),
    # Numbers.
    Rule("FileSizeMB", "FileSize", becomes=NumberBuckets(edges=(1, 5, 10, 50), unit="MB")),
    Rule("*RowCount", "Rows", "NumRows", "NumberOfRows", becomes=NumberBuckets(edges=(100, 1_000, 10_000, 100_000))),
    Rule("StatusCode", "HttpStatus", "HttpStatusCode", "HttpResponseStatusCode", becomes=StatusClass()),
    Rule("Status", becomes=StatusClass(otherwise=None)),
    # Places in an API.
    Rule("*Path", "*Url", "*Uri", "Endpoint", "Route", "HttpRoute", "HttpTarget", becomes=PathTemplate()),
)
"""What becomes of a dimension's values, by its name; among rules that cover one name the last wins."""

_HEX: Final = "[0-9A-Fa-f]"
_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9]?[0-9])"
_GROUP: Final = _HEX + "{1,4}"


def _alone(pattern: str) -> str:
    """The pattern, not glued to letters or digits."""
    return f"(?<![0-9A-Za-z])(?:{pattern})(?![0-9A-Za-z])"


DETECTORS: Final[tuple[Detector, ...]] = (
    Detector("e-mail address", r"(?<=[^\s@])@(?:[\w-]+\.)+[^\W\d_]{2,}", needs="@", at_least=6),
    Detector("credentials in a URL", r"://[^/\s@:]*:[^/\s@]*@", needs="://", at_least=5),
    # Not after a `v` that stands alone: that is a version.
    Detector("IPv4 address", rf"(?<![0-9])(?<!\b[vV])(?:{_OCTET}\.){{3}}{_OCTET}(?![0-9])", needs=".", at_least=7),
    Detector(
        "IPv6 address",
        _alone(rf"(?:{_GROUP}:){{7}}{_GROUP}|(?:(?:{_GROUP}:){{1,6}}|:)(?::{_GROUP}){{1,6}}|(?:{_GROUP}:){{1,7}}:"),
        needs=":",
        at_least=3,
    ),
    Detector("MAC address", _alone(rf"(?:{_HEX}{{2}}[:-]){{5}}{_HEX}{{2}}"), at_least=17),
    Detector(
        "phone number, international",
        r"(?<![0-9A-Za-z])\+[1-9](?:[ ()./-]{0,2}[0-9]){7,14}(?![0-9])",
        needs="+",
        at_least=9,
    ),
    # National forms that numbers and dates do not have: a leading zero, an area code in brackets, 3-3-4 digits.
    Detector(
        "phone number, national",
        r"(?<![0-9A-Za-z])(?:"
        r"(?<![0-9][.,:-])0[1-9](?:[ ()./-]{0,2}[0-9]){7,10}"
        r"|00[1-9](?:[ ()./-]{0,2}[0-9]){7,13}"
        r"|\([0-9]{2,5}\)[ -]?[0-9]{3,5}[ -]?[0-9]{3,5}"
        r"|[2-9][0-9]{2}[ .-][0-9]{3}[ .-][0-9]{4}"
        r")(?![0-9A-Za-z])",
        at_least=9,
    ),
    Detector(
        "US social security number", _alone(r"(?<![0-9]-)[0-9]{3}-[0-9]{2}-[0-9]{4}(?!-[0-9])"), needs="-", at_least=11
    ),
    Detector(
        "card number",
        r"[0-9](?:[ -]?[0-9]){12,}",
        at_least=13,
        confirm=contains_card_number,
    ),
    Detector(
        "UUID",
        rf"{_HEX}{{8}}-(?:{_HEX}{{4}}-){{3}}{_HEX}{{12}}|(?<!{_HEX}){_HEX}{{32}}(?!{_HEX})",
        at_least=32,
    ),
    # Base64 of `{"`: the header of every JSON web token.
    Detector("JSON web token", r"eyJ[A-Za-z0-9_-]{10}", needs="eyJ", at_least=13),
    Detector("AWS access key id", "(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}", needs="A", at_least=20),
    # 40 characters of base64, which may contain slashes, alone or between slashes. What tells them from a path are many
    # capitals and small letters, and two capitals in a row or two digits: of random ones, three in 10,000 have not.
    Detector(
        "AWS secret access key",
        r"(?<![A-Za-z0-9+])"
        r"(?=(?:[a-z0-9/+]{0,34}[A-Z]){6})(?=(?:[A-Z0-9/+]{0,34}[a-z]){6})"
        r"(?=[A-Za-z0-9/+]{0,38}[A-Z]{2}|(?:[A-Za-z/+]{0,38}[0-9]){2})"
        r"[A-Za-z0-9/+]{40}(?![A-Za-z0-9+])",
        at_least=40,
    ),
)
"""What is personal data by its looks, wherever it stands in a value."""
