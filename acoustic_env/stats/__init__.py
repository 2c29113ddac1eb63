"""The few statistical methods that every room uses: intervals over groups of rows that belong together."""
