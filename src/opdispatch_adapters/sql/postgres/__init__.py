"""The store in a PostgreSQL database.  Needs the extra ``postgres``."""
