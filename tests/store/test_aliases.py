"""Names that point to models: one commit moves them, and a model that has one stays."""

import pytest

from alignclip_store import aliases
from alignclip_store.database import reading, transaction
from alignclip_store.errors import AliasNotFound, ModelInUse


def test_alias_points_where_it_was_set_last(engine):
    for model in ("starter", "ft:starter:ann:x:1"):
        with transaction(engine) as session:
            alias = aliases.set_alias(session, "ann", "production", model)
    assert alias.model_id == "ft:starter:ann:x:1"
    assert alias.created_at < alias.changed_at
    with reading(engine) as session:
        assert aliases.find_target(session, "ann", "production") == "ft:starter:ann:x:1"
        assert [each.name for each in aliases.list_aliases(session, "ann")] == ["production"]


def test_alias_is_its_owners_alone(engine):
    with transaction(engine) as session:
        aliases.set_alias(session, "ann", "production", "starter")
        assert aliases.find_target(session, "bob", "production") is None
        aliases.set_alias(session, "bob", "production", "other")
        assert aliases.find_target(session, "ann", "production") == "starter"
        aliases.delete_alias(session, "bob", "production")
        with pytest.raises(AliasNotFound, match="'production'"):
            aliases.get_alias(session, "bob", "production")
        assert aliases.list_aliases(session, "ann")


def test_model_with_an_alias_is_in_use(engine):
    with transaction(engine) as session:
        aliases.set_alias(session, "ann", "candidate", "ft:x")
        with pytest.raises(ModelInUse, match="'candidate' points to"):
            aliases.require_no_alias(session, "ann", "ft:x")
        aliases.require_no_alias(session, "ann", "ft:y")
        aliases.require_no_alias(session, "bob", "ft:x")
