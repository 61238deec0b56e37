"""Documents as data: receipts, statements, invoices, credit notes. Nothing is printed here."""
