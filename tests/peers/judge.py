"""Judges a message on standard input: every DKIM signature by dkimpy, the envelope's SPF by pyspf.

Both ask one name server only, given by address and port. The verdict is one JSON object on standard output.
"""

import argparse
import json
import re
import sys

import dkim
import dns.exception
import dns.resolver
import spf


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dns", required=True)
    parser.add_argument("--dns-port", type=int, required=True)
    parser.add_argument("--ip", required=True)
    parser.add_argument("--helo", required=True)
    parser.add_argument("--mail-from", required=True)
    wanted = parser.parse_args()

    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [wanted.dns]
    resolver.port = wanted.dns_port
    resolver.lifetime = 10

    spf.DNSLookup = lambda name, kind, *rest, **options: lookup(resolver, name, kind)
    result, explanation = spf.check2(i=wanted.ip, s=wanted.mail_from, h=wanted.helo)
    signatures = judge_signatures(sys.stdin.buffer.read(), resolver)
    json.dump({"signatures": signatures, "spf": result, "spf_explanation": explanation}, sys.stdout)


def judge_signatures(message, resolver):
    def text(name, timeout=10):
        name = name.decode("ascii") if isinstance(name, bytes) else name
        try:
            answer = resolver.resolve(name, "TXT")
        except dns.exception.DNSException:
            return None
        return b"".join(answer[0].strings)

    count = len(dkim.DKIM(message).headers and
                [name for name, _ in dkim.DKIM(message).headers if name.lower() == b"dkim-signature"])
    verdicts = []
    for index in range(count):
        verifier = dkim.DKIM(message, minkey=1024)
        error = ""
        try:
            valid = bool(verifier.verify(idx=index, dnsfunc=text))
        except dkim.DKIMException as why:
            valid, error = False, f"{type(why).__name__}: {why}"
        fields = verifier.signature_fields or {}
        tag = lambda name: re.sub(rb"\s", b"", fields.get(name, b"")).decode("ascii", "replace")
        verdicts.append({
            "domain": tag(b"d"),
            "selector": tag(b"s"),
            "algorithm": tag(b"a"),
            "headers": tag(b"h").lower().split(":"),
            "valid": valid,
            "error": error,
        })
    return verdicts


def lookup(resolver, name, kind):
    """Answers in the shape that pyspf wants: a list of ((name, type), data)."""
    if kind == "SPF":
        return []
    try:
        answer = resolver.resolve(name, kind)
    except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
        return []
    except dns.exception.DNSException as why:
        raise spf.TempError(f"DNS: {why}") from why
    rows = []
    for record in answer:
        if kind == "MX":
            rows.append(((name, kind), (record.preference, record.exchange.to_text(omit_final_dot=True))))
        elif kind == "TXT":
            rows.append(((name, kind), tuple(record.strings)))
        elif kind in ("A", "AAAA"):
            rows.append(((name, kind), record.address))
        elif kind in ("PTR", "CNAME"):
            rows.append(((name, kind), record.target.to_text(omit_final_dot=True)))
    return rows


if __name__ == "__main__":
    main()
