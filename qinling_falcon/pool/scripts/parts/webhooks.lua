-- webhooks: the rate limits of webhooks, and the logs of their deliveries.

-- When the bucket of a webhook's rate limit is full again.
local function bucket_of(webhook_id)
  return P .. 'bucket:' .. webhook_id
end

-- The last deliveries to a webhook, the newest first.
local function deliveries_to(webhook_id)
  return P .. 'deliveries:' .. webhook_id
end
