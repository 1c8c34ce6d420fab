import pytest

from retrieval.quantities import own_turn, parse_bytes, parse_limit


@pytest.mark.parametrize(
    ("text", "amount"), [("16MB", 16_000_000), ("2 GiB", 2 << 30), ("1.5k", 1500), ("4096", 4096), ("7b", 7), ("1TB", 10**12)]
)
def test_bytes_are_read_as_people_write_them(text, amount):
    assert parse_bytes(text) == amount


def test_a_limit_is_a_number_or_a_share():
    assert (parse_limit("10"), parse_limit("2%"), parse_limit("0%")) == (10, 0.02, 0.0)
    assert isinstance(parse_limit("1"), int)
    assert isinstance(parse_limit("100%"), float)


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_bytes, "16 XB"), (parse_bytes, "-1MB"), *((parse_limit, text) for text in ("ten", "1.5", "-1", "101%", "-2%", "nan%"))],
)
def test_anything_else_is_named(parse, text):
    with pytest.raises(ValueError, match=text):
        parse(text)


def test_a_turn_is_told_or_torchruns_or_the_only_one():
    torchrun = {"LOCAL_RANK": "0", "RANK": "3", "WORLD_SIZE": "4"}

    assert own_turn(None, None, torchrun) == (3, 4)
    assert own_turn(1, 2, torchrun) == (1, 2)
    assert own_turn(None, None, {"WORLD_SIZE": "4", "RANK": "3"}) == (0, 1)
    with pytest.raises(ValueError, match="go together"):
        own_turn(1, None, {})
