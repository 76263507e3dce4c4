-- lease: leases a worker for a call, or counts the call in the entry of its process in the queue.
-- ARGV    2 holder  3 which workers the call accepts: 'any', 'loaded' (only an idle one of the target) or 'warm' (only
--         a warm one)  4 runtime  5 target  6 project  7 the version's own limit, or ''  8 execution  9 run_ms
--         10 detail, empty when there is no execution  11 '1': the call waits if no worker is free  12 for how many ms
--         the oldest call of the holder has waited  13 executions to acknowledge  14… pairs of (cache key, generation)
-- reads   generations, concurrency, idle:<target>, held, warm:<runtime>, worker:<id>, waiting, policy
-- writes  journal:<holder>, the version's own limit in concurrency; with a lease: worker:<id>, leases, concurrency,
--         idle and idle:<target>, or warm:<runtime>, held, assigned_at, assigned:<function>, policy, wakeups; with an
--         entry: queue:<queue>, counts:<queue>, entries:<holder>, waiting, escalated:<runtime> or blocked:, former
-- returns {'stale'}: a generation differs or is missing; only the acknowledged executions were removed
--         {'lease', worker, address, secret, token, cold, needs_load}
--         {'queued', escalated}: the holder has an entry in the queue of the target, and will be notified; escalated is
--         '1' if this call has escalated the queue
--         {'busy'}: no worker is free, and the call does not wait
--         {'full', bound, waiting, most}: no worker is free, and the queue is full; bound is 'function', 'project' or
--         'all', waiting is the number of waiting calls that this limit counts, most is the limit
--         {'full', 'asynchronous', leases, most}: asynchronous executions, or those of the project or function, have
--         as many leases as they may
-- promises  Leases and waiting calls never exceed the limits of version, function, project and runtime. A call never
--           gets a worker of another target. A project without waiting calls gets a place in the queue if any is left,
--           and a function without waiting calls gets one if its project has one left.

acknowledge(ARGV[2], ARGV[13])
if not current(ARGV, 14) then return {'stale'} end

local kind, runtime, target, project_id = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local is_of_caller = not is_asynchronous(ARGV[2])
if not is_of_caller then
  local count = read_asynchronous(target, project_id)
  if exceeds_with_one_more(count) then return {'full', 'asynchronous', count.all, count.limit} end
end
local function_id = function_of(target)
local counts = read_counts_with_own(target, project_id, runtime, ARGV[7])
local is_blocked = not allows_one_more(counts)
local held
if not is_blocked then
  local worker = kind ~= 'warm' and take_latest_idle(target)
  local is_warm = false
  if not worker and kind ~= 'loaded' then
    held = held_by(target)
    if held == 0 or (kind == 'warm' and call('ZCARD', P .. 'warm:' .. runtime) > 1) then
      worker, is_warm = call('ZRANGE', P .. 'warm:' .. runtime, 0, 0)[1], true
    end
  end
  if worker then
    local address, secret, token = begin_lease(worker, is_warm, {
      runtime = runtime, target = target, project_id = project_id, holder = ARGV[2], execution = ARGV[8],
      run_ms = ARGV[9], detail = ARGV[10],
    }, counts)
    return {'lease', worker, address, secret, token, is_warm and 'assign' or 'none', is_warm and '1' or '0'}
  end
end

if ARGV[11] ~= '1' then return {'busy'} end

-- Asynchronous executions that wait do not count, because their processes bound their number. A function may have at
-- most as many waiting calls as its project has free places, and a project at most as many as there are in all. The
-- first project to fill the queues gets at most half of all places, the next one half of the rest, so places remain for
-- others.
if is_of_caller then
  local most = call('HMGET', POLICY, 'waiting', 'waiting of project', 'waiting of function')
  local most_of_all, most_of_project = tonumber(most[1]) or UNLIMITED, tonumber(most[2]) or UNLIMITED
  local most_of_function = tonumber(most[3]) or UNLIMITED
  local waiting = call('HMGET', WAITING, 'all', 'project ' .. project_id, 'function ' .. function_id)
  local of_all, of_project = tonumber(waiting[1]) or 0, tonumber(waiting[2]) or 0
  local of_function = tonumber(waiting[3]) or 0
  if of_function >= most_of_function then return {'full', 'function', of_function, most_of_function} end
  if of_function >= most_of_project - of_project then return {'full', 'project', of_project, most_of_project} end
  if of_project >= most_of_all - of_all then return {'full', 'all', of_all, most_of_all} end
end

local queue = queue_of(runtime, target, project_id, kind == 'warm' and 'warm' or 'any')
local before = tonumber(call('HGET', P .. 'counts:' .. queue, ARGV[2])) or 0
set_entry(queue, ARGV[2], before + 1, now - tonumber(ARGV[12]))
if is_blocked then
  block(queue, runtime, project_id)
elseif held == 0 or kind == 'warm' then
  escalate(queue)
  return {'queued', '1'}
end
return {'queued', '0'}
