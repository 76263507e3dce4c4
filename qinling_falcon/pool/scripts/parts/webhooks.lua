-- webhooks: the rate limits of webhooks, and the logs of their deliveries.

-- The key of a webhook's token bucket. Its value is the time at which the bucket is full; the key expires then.
local function bucket_of(webhook_id)
  return P .. 'bucket:' .. webhook_id
end

-- Takes a token of a webhook's bucket, which gets one every so many ms and holds `most`. Returns 0, or after how many
-- ms there is a token.
local function take_token(webhook_id, every, most)
  local bucket = bucket_of(webhook_id)
  local stored = tonumber(call('GET', bucket)) or now
  -- Not later than if the bucket were empty now: the limit may have been changed, or the clock set back.
  local full_at = math.min(math.max(stored, now), now + most * every)
  local wait = math.max(0, full_at - now - (most - 1) * every)
  if wait == 0 then full_at = full_at + every end
  if wait == 0 or full_at < stored then
    call('SET', bucket, string.format('%.3f', full_at), 'PX', text(math.ceil(full_at - now)))
  end
  return wait
end

-- The last deliveries to a webhook that were accepted, the newest first.
local function deliveries_to(webhook_id)
  return P .. 'deliveries:' .. webhook_id
end

-- The last deliveries to a webhook that were refused, the newest first. Anyone who knows the URL can cause them.
local function refusals_of(webhook_id)
  return P .. 'refusals:' .. webhook_id
end
