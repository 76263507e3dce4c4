-- admit_delivery: whether a delivery to a webhook may be accepted, and a token of the webhook's bucket.
-- ARGV    2 webhook, empty: it has no rate limit  3 ms after which the bucket gets a token  4 the tokens of a full bucket
--         5 project, empty: its backlog does not matter  6 the most executions of the project that may wait
--         7 cache key of the webhook  8 its generation  9… pairs of (cache key, generation) of the target
-- reads   generations, backlogs, bucket:<webhook>
-- writes  bucket:<webhook>
-- returns {'stale webhook'}, {'stale target'}, {'full', how many executions wait},
--         {'limited', ms after which there is a token}, or {'admitted'}
-- promises  A token is taken only for a delivery that is admitted.

if not current({ARGV[7], ARGV[8]}, 1) then return {'stale webhook'} end
if not current(ARGV, 9) then return {'stale target'} end
if ARGV[5] ~= '' then
  local waiting = tonumber(call('HGET', BACKLOGS, ARGV[5])) or 0
  if waiting >= tonumber(ARGV[6]) then return {'full', waiting} end
end
if ARGV[2] ~= '' then
  -- The key has the time at which the bucket is full again, and expires then.
  local bucket, every, most = bucket_of(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
  -- At most as if the bucket were empty now: the limit may have been changed, or the clock set back.
  local full_at = math.min(math.max(tonumber(call('GET', bucket)) or now, now), now + most * every)
  local wait = full_at - now - (most - 1) * every
  if wait > 0 then return {'limited', math.ceil(wait)} end
  full_at = full_at + every
  call('SET', bucket, string.format('%.3f', full_at), 'PX', text(math.ceil(full_at - now)))
end
return {'admitted'}
