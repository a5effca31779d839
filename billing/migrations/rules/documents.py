"""How operators present themselves, and the documents that were made, which never change."""

# PDF is packed already; a whole value is read, never a part.
RULES = """
ALTER TABLE billing_document ALTER COLUMN content SET STORAGE EXTERNAL;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing_document FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('a document that was made stays as it is');
CREATE TRIGGER kept BEFORE TRUNCATE ON billing_document FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is kept');
"""
