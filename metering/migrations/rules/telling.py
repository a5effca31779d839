"""What somebody said or did is told by rows that are only added to."""

# These rows tell what somebody said or did: a mistake is mended by a further row.
_KEPT = ("metering_usagecounter", "metering_windowevent", "metering_repeatdismissal")
RULES = """
CREATE FUNCTION metering_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
""" + "".join(
    f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table}"
    " FOR EACH ROW EXECUTE FUNCTION metering_refuse_change();\n"
    for table in _KEPT
)
