"""Makes places.mmdb, the database of the tests: `pip install mmdb_writer`, then run this file."""

from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPSet

writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Test-Places")
DE, FR = {"country": {"iso_code": "DE"}}, {"country": {"iso_code": "FR"}}
writer.insert_network(IPSet(["192.0.2.0/25", "2001:db8:1::/48"]), DE)
writer.insert_network(IPSet(["192.0.2.128/25"]), {**DE, "autonomous_system_number": 64500})
writer.insert_network(IPSet(["198.51.100.0/24", "2001:db8:2::/48"]), FR)
writer.insert_network(IPSet(["203.0.113.7/32"]), {"asn": "AS64500", "country_code": "SE"})
writer.to_db_file(str(Path(__file__).with_name("places.mmdb")))
