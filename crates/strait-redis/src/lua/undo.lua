-- Makes dead letters again of what a run brought back, where it waits.
-- KEYS: group, dead letters, runs, of each partition its shard, what was brought back and what holds keys ..
-- ARGV: run, 1 to count only, 1 when dead letters hold their keys
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'gone'}
end
local known = redis.call('HGET', KEYS[3], ARGV[1])
if not known then return {'unknown'} end
local total, next_due = string.match(known, '^(%d+) (%d+)$')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local returned, out = 0, 0
for i = 4, #KEYS, 3 do
  local shard = redis.call('HMGET', KEYS[i], 'epoch', 'owner', 'until')
  local owned = shard[2] and tonumber(shard[3]) > now
  local all = redis.call('HGETALL', KEYS[i + 1])
  for j = 1, #all, 2 do
    local run, epoch = string.match(all[j + 1], '^(%d+) %S+ %S+ %S+ %S+ (%d+) ')
    if run == ARGV[1] and owned and epoch == shard[1] then
      out = out + 1
    elseif run == ARGV[1] then
      returned = returned + 1
      if ARGV[2] == '0' then
        end_back(KEYS[1], KEYS[i + 1], all[j])
        local letter = ARGV[3] == '1' and redis.call('XRANGE', KEYS[2], all[j] .. '-0', all[j] .. '-0')[1]
        local fields = letter and letter[2] or {}
        for k = 1, #fields, 2 do
          if fields[k] == 'key' then redis.call('HSET', KEYS[i + 2], all[j], fields[k + 1]) break end
        end
      end
    end
  end
end
if ARGV[2] == '0' and returned > 0 then
  redis.call('HSET', KEYS[3], ARGV[1], string.format('%.0f %s', total - returned, next_due))
  changed(KEYS[1])
end
return {'done', returned, out, total - returned - out}
