"""What every room shares: errors, records, quantities, files, stores, progress. Imports no room."""
