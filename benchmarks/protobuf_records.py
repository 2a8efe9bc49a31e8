"""OFRecord as classes of the protobuf library, which tests and benchmarks compare with this project's codec.

The classes are built from the fields in oneflow/core/record/record.proto, without generated code.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def _classes(*names: str) -> list[Any]:
    """Message classes, in a descriptor pool of their own, since OneFlow may have registered the same names."""
    file = descriptor_pb2.FileDescriptorProto(name="record.proto", package="reference")
    label = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, Any, bool], parent: Any = file.message_type) -> Any:
        result = parent.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            entry = result.field.add(name=field, number=number)
            entry.label = label.LABEL_REPEATED if repeated else label.LABEL_OPTIONAL
            if isinstance(kind, str):
                entry.type, entry.type_name = label.TYPE_MESSAGE, kind
            else:
                entry.type = kind
                entry.options.packed = repeated and kind != label.TYPE_BYTES
        return result

    message("BytesList", ("value", label.TYPE_BYTES, True))
    message("FloatList", ("value", label.TYPE_FLOAT, True))
    message("DoubleList", ("value", label.TYPE_DOUBLE, True))
    message("Int32List", ("value", label.TYPE_INT32, True))
    message("Int64List", ("value", label.TYPE_INT64, True))
    kinds = ("bytes", "float", "double", "int32", "int64")
    feature = message("Feature", *((f"{k}_list", f".reference.{k.title()}List", False) for k in kinds))
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    record = message("OFRecord", ("feature", ".reference.OFRecord.FeatureEntry", True))
    entry = message(
        "FeatureEntry",
        ("key", label.TYPE_STRING, False),
        ("value", ".reference.Feature", False),
        parent=record.nested_type,
    )
    entry.options.map_entry = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    factory = message_factory.MessageFactory(pool)
    return [factory.GetPrototype(pool.FindMessageTypeByName(f"reference.{name}")) for name in names]


OFRecord, Feature, Int32List, FloatList = _classes("OFRecord", "Feature", "Int32List", "FloatList")
