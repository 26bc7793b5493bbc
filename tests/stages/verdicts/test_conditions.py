"""SQL of a user: what an expression may be, and which columns it reads."""

import pyarrow as pa
import pytest

from capfilt.stages.rows import CANDIDATE_SCHEMA
from capfilt.stages.verdicts.conditions import Columns
from capfilt.stages.verdicts.rules import PolicyError

EXTRA = pa.schema(
    [("similarity", pa.float32()), ("NSFW", pa.string()), ("point", pa.struct([("x", pa.int8())]))]
)
COLUMNS = Columns(pa.unify_schemas([CANDIDATE_SCHEMA, EXTRA]))


@pytest.mark.parametrize(
    ("expression", "used"),
    [
        ("itm >= 0.7 AND itc > 0", {"itm_prob", "itc_sim"}),
        ("ITM_PROB >= 0.7", {"itm_prob"}),
        ("candidates.itm > 0.5", {"itm_prob"}),
        ("words BETWEEN 3 AND 20", {"text"}),
        ("nsfw = 'UNLIKELY' OR similarity > 0.3", {"NSFW", "similarity"}),
        ("point.x > 1", {"point"}),
        ("list_contains(flags, 'duplicate')", {"flags"}),
        ("len(list_filter(flags, lambda f: f = 'x')) = 0", {"flags"}),
        ("regexp_matches(text, '(?i)buy') -- a comment", {"text"}),
        ("kept", {"kept"}),
        ("true", set()),
    ],
)
def test_condition_is_any_expression_over_a_row(expression, used):
    assert COLUMNS.check("--keep", expression, "condition") == used


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("itm >= and", 'no SQL expression (syntax error at or near "and")'),
        ("true) FROM x WHERE (true", "no SQL expression"),
        ("true; DROP TABLE rows", "no SQL expression"),
        ("foo > 1", "unknown column 'foo'; the candidates have itm, itc, words, key, source"),
        ("other.itm > 1", "unknown column 'other'"),
        ("itm", "'itm' is a DOUBLE; it must be true or false, for example itm >= 0.7"),
        ("itm > (SELECT avg(itm) FROM candidates)", "has a subquery"),
        ("EXISTS (FROM read_csv('/etc/passwd'))", "has a subquery"),
        ("max(itm) > 0.5", "WHERE clause cannot contain aggregates"),
        ("row_number() OVER () > 1", "has a window function"),
        ("COLUMNS('i.*') > 1", "has a star"),
        ("itm > $1", "has a parameter"),
        ("random() > 0.5", "random gives another value each time"),
        ("current_date > '2020-01-01'", "current_date gives another value each time"),
        ("regexp_matches(text, '(')", "missing ): ("),
    ],
)
def test_anything_else_is_refused_in_one_line(expression, part):
    with pytest.raises(PolicyError) as caught:
        COLUMNS.check("--keep x", expression, "condition")
    assert str(caught.value).startswith("--keep x: ") and part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_score_is_a_number():
    assert COLUMNS.check("--keep", "0.5 * itm + similarity", "score") == {"itm_prob", "similarity"}
    assert COLUMNS.check("--keep", "caption_index", "score") == {"caption_index"}
    with pytest.raises(PolicyError, match="'itm > 1' is a BOOLEAN; it must be a number"):
        COLUMNS.check("--keep", "itm > 1", "score")


def test_column_of_the_user_hides_the_short_name():
    columns = Columns(
        CANDIDATE_SCHEMA.append(pa.field("itm", pa.string())).append(pa.field("words", pa.int8()))
    )
    assert columns.check("--keep", "itm = 'x' AND words = 1", "condition") == {"itm", "words"}
