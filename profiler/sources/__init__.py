"""Measurements that come from elsewhere: shipped databases and tables of others."""
