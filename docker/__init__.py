"""Container recipes, what runs beside them, and (prove/) what shows without Docker that one of them works."""
