-- admit_delivery: checks that a delivery may be accepted, and takes a token of the webhook's rate limit.
-- ARGV    2 webhook; empty: it has no rate limit  3 ms between two tokens  4 how many tokens the bucket holds
--         5 project; empty: its backlog is not checked  6 how many executions of the project may wait
--         7 cache key of the webhook  8 its generation  9… pairs of (cache key, generation) of the target
-- reads   generations, backlogs, bucket:<webhook>
-- writes  bucket:<webhook>
-- returns {'stale webhook'}, {'stale target'}, {'full', how many executions wait},
--         {'limited', ms after which there is a token}, or {'admitted'}
-- promises  A token is taken only for a delivery that is admitted.

local stale = first_stale(ARGV, 7)
if stale then return {stale == 7 and 'stale webhook' or 'stale target'} end
if ARGV[5] ~= '' then
  local waiting = tonumber(call('HGET', BACKLOGS, ARGV[5])) or 0
  if waiting >= tonumber(ARGV[6]) then return {'full', waiting} end
end
if ARGV[2] ~= '' then
  local wait = take_token(ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]))
  if wait > 0 then return {'limited', math.ceil(wait)} end
end
return {'admitted'}
