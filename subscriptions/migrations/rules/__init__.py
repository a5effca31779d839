"""What Django's operations cannot say of the tables: rules, functions, sequences, partitioned tables."""
