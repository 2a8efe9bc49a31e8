"""Features: types, lengths, bounds and padding of each kind of record."""

from data.records.features import pretraining_schema, squad_schema


def test_schemas():
    assert pretraining_schema(37, 5)["masked_lm_weights"] == ("float", 5)
    assert squad_schema(37, True)["end_positions"] == squad_schema(37, False)["unique_ids"] == ("int32", 1)
