-- list_deliveries: the logged deliveries to a webhook.
-- ARGV    2 webhook
-- reads   deliveries:<webhook>
-- returns the deliveries, the newest first

return call('LRANGE', deliveries_to(ARGV[2]), 0, -1)
