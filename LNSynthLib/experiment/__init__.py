"""The paper's protocol as data: a plan's cells, run resumably, and the report on them."""
