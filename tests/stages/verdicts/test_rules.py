"""Rules of policies as texts: scopes, shares, and what is refused."""

import pytest

from capfilt.stages.verdicts.rules import PolicyError, PolicyText, Top, parse_rule


def parse(text):
    rule = parse_rule("--keep", text)
    return rule.scope, rule.chosen


@pytest.mark.parametrize(
    ("text", "scope", "chosen"),
    [
        ("itm>=0.7", (), "itm>=0.7"),
        ("  itm >= 0.7 ", (), "itm >= 0.7"),
        ("web: itm>=0.2", (("origin", "web"),), "itm>=0.2"),
        ("synthetic:itm>=0.5", (("origin", "synthetic"),), "itm>=0.5"),
        ("source=cc12m: itm > 0", (("source", "cc12m"),), "itm > 0"),
        ("web, source = cc-3m/a: itm > 0", (("origin", "web"), ("source", "cc-3m/a")), "itm > 0"),
        ("license='CC BY: 4''s': true", (("license", "CC BY: 4's"),), "true"),
        ("itm::double > 0.5", (), "itm::double > 0.5"),
        ("url LIKE 'http://%'", (), "url LIKE 'http://%'"),
        ("origin = 'web'", (), "origin = 'web'"),
        ("top 30% by itc", (), Top(300_000, "itc")),
        ("TOP 0.0001 % BY itc", (), Top(1, "itc")),
        ("top 100% by itm + itc per source", (), Top(1_000_000, "itm + itc", ("source",))),
        (
            "web: top 2.5% by itc per source, origin",
            (("origin", "web"),),
            Top(25_000, "itc", ("source", "origin")),
        ),
        ("topic = 'x'", (), "topic = 'x'"),
    ],
)
def test_rule_has_a_scope_and_a_choice(text, scope, chosen):
    assert parse(text) == (scope, chosen)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no condition; give one"),
        ("web:", "no condition; give one"),
        ("wbe: itm>1", "unknown origin 'wbe' before the colon; allowed: web or synthetic, or column=value"),
        ("top 0% by itc", "'0' is no percentage; allowed: above 0, at most 100"),
        ("top 100.1% by itc", "'100.1' is no percentage"),
        ("top 1.00001% by itc", "with at most 4 decimals"),
        ("top 1e1% by itc", "'1e1' is no percentage"),
        ("top 30 by itc", "not of the form top N% by SCORE"),
        ("top 30%", "not of the form top N% by SCORE"),
    ],
)
def test_text_that_is_no_rule_is_refused_in_one_line(text, part):
    with pytest.raises(PolicyError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith(f'--keep "{text}"') and part in message and "\n" not in message


def test_policies_are_equal_in_any_order_of_their_rules():
    one = PolicyText(keep=("a", "b"), drop_flags=("x",))
    assert one.means_the_same(PolicyText(keep=("b", "a"), drop_flags=("x",)))
    assert not one.means_the_same(PolicyText(keep=("a",), drop_flags=("x",)))
    assert not one.means_the_same(PolicyText(keep=("b", "a"), drop=("x",)))
    assert str(PolicyText(keep=("a",), drop=("b",), drop_flags=("c",))) == "keep a; drop b; drop flag c"
