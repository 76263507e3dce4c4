-- list_deliveries: the logged deliveries to a webhook.
-- ARGV    2 webhook
-- reads   deliveries:<webhook>, refusals:<webhook>
-- returns {the accepted deliveries, the refused ones}, each the newest first

return {call('LRANGE', deliveries_to(ARGV[2]), 0, -1), call('LRANGE', refusals_of(ARGV[2]), 0, -1)}
