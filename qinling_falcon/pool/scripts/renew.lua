-- renew: starts the next execution of the same target on a lease, after the answer of the last one, or on an offer.
-- ARGV    2 worker  3 token  4 holder  5 execution  6 run_ms  7 detail, empty when there is no execution  8 for how
--         many ms this call has waited  9 queue, empty when the holder has no entry in it  10 the change of its number
--         of waiting calls, as in leave  11 for how many ms the oldest of those that are left has waited
--         12 the version's own limit, or ''  13 executions to acknowledge  14… pairs of (cache key, generation)
-- reads   worker:<id>, generations, concurrency, queue:<queue>, blocked:project:<id>,
--         blocked:runtime:<id>
-- writes  worker:<id>, leases, journal:<holder>, the entry of the holder, the version's own limit in
--         concurrency; where the lease is over what release or return_unused write
-- returns {'ok', token}: the new token; the old one is not valid any more
--         {'stale'}: a generation differs or is missing; the lease stays as it was
--         {'ended'}: the lease has ended, because the worker drains or is recalled, a limit was lowered, or another
--         call has waited longer
--         {'lost'}: the lease was not the caller's any more
--         In all cases the entry of the holder is changed.
-- promises  An execution starts under current generations only, within the present limits, and on a worker that does
--           not drain. No other process and no queue at the same limit waits much longer than this call. An offer is
--           accepted or passed on, never both.

local TOLERANCE_MS = 5  -- calls that arrived within this time count as having arrived together

acknowledge(ARGV[4], ARGV[13])
if ARGV[9] ~= '' then
  change_entry(ARGV[9], ARGV[4], ARGV[10], now - tonumber(ARGV[11]))
  deescalate(ARGV[9])
end
local worker = ARGV[2]
local is = call('HMGET', record(worker), 'state', 'token', 'runtime', 'target', 'project', 'drain', 'recalled', 'kept',
  'accepted', 'new')
if is[1] ~= 'leased' or is[2] ~= ARGV[3] then return {'lost'} end
local runtime, target, project_id = is[3], is[4], is[5]
if not current(ARGV, 14) then return {'stale'} end

local queue = queue_of(runtime, target, project_id, 'any')

local drains = is[6] or (tonumber(is[7]) or 0) > now
local counts = read_counts_with_own(target, project_id, runtime, ARGV[12])
local exceeds_share = is_asynchronous(ARGV[4]) and exceeds_asynchronous(read_asynchronous(target, project_id))
if is[9] == '1' then
  local arrival = now - tonumber(ARGV[8])
  local first, first_arrival = first_entry(queue)
  local passes = first and first ~= ARGV[4] and first_arrival + TOLERANCE_MS < arrival
  -- Whether a queue that the limit blocks has waited longer than this call.
  local function has_older_queue(blocked, function_id)
    local oldest_ones = call('ZRANGE', P .. 'blocked:' .. blocked, 0, function_id and LOOK_AT - 1 or 0, 'WITHSCORES')
    for at = 1, #oldest_ones, 2 do
      if tonumber(oldest_ones[at + 1]) + TOLERANCE_MS >= arrival then return false end
      local _, its_target = parse_queue(oldest_ones[at])
      if oldest_ones[at] ~= queue and (not function_id or function_of(its_target) == function_id) then return true end
    end
    return false
  end
  passes = passes or drains or not exceeds_none(counts) or exceeds_share
    or is_reached(counts, 'function') and has_older_queue('project:' .. project_id, function_of(target))
    or is_reached(counts, 'project') and has_older_queue('project:' .. project_id)
    or is_reached(counts, 'runtime') and has_older_queue('runtime:' .. runtime)
  if passes then
    local before = end_lease(worker, target, project_id, runtime, ARGV[4])
    if drains then
      drain_assigned(worker, runtime, target, project_id)
      serve_limits(before, project_id, runtime)
    else
      free(worker, runtime, target, project_id, is[8], before)
    end
    return {'ended'}
  end
elseif drains or not exceeds_none(counts) or exceeds_share then
  return_unused(worker)
  return {'ended'}
end

local token = text(math.max(tonumber(is[2]) + 1, now))
call('HSET', record(worker), 'token', token, 'execution', ARGV[5], 'holder', ARGV[4], 'granted', text(now), 'accepted',
  '1', 'new', is[9] == '1' and '0' or is[10])
call('ZADD', LEASES, now + tonumber(ARGV[6]), worker)
write_journal(ARGV[4], ARGV[5], worker, token, ARGV[7])
return {'ok', token}
