# What the benchmarks have in common: two servers to hold beside each other, and how figures are told.
package Bench;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);
use POSIX qw(strftime);

use lib dirname(__FILE__) . '/../../t/lib';

use Test::Memstat::Proc qw(read_file);
use Test::Memstat::Server;

our @EXPORT_OK = qw(budget budgets measured_with median processors quartiles quick server spread table wrapped);

# --- how much is measured ---

# The first of two values, or the second in a run that only shows that all works (BENCH_QUICK).
sub quick {
    my ($whole, $quick) = @_;
    return $ENV{BENCH_QUICK} ? $quick : $whole;
}

# The processors of this machine.
sub processors { return scalar(() = (read_file('/proc/cpuinfo') // '') =~ /^processor\s*:/mg) }

# --- servers ---

# What the requests that are measured meet. HTTP/2 is on a port of its own.
my $HTTP = <<'END';
limit_req_zone $binary_remote_addr zone=known:1m rate=1000000r/s;
limit_req_zone $connection_requests zone=new:64k rate=1000000r/s;
keepalive_requests 100000000;
access_log off;
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_1 http2;
    location /return { return 200 "ok"; }
}
END

my $CONFIG = <<'END';
location /return { return 200 "ok"; }
location /file { root $TEST_NGINX_SERVER_ROOT/html; }
location /proxy { proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/return; }
location /limited { limit_req zone=known burst=100000 nodelay; alias $TEST_NGINX_SERVER_ROOT/html/file; }
location /slab { limit_req zone=new burst=100000 nodelay; alias $TEST_NGINX_SERVER_ROOT/html/file; }
END

# These only where the server has Lua (not with lua => 0).
my $LUA = 'location /lua { content_by_lua_block { ngx.print("ok") } }';

# A server that runs: "absent" (without the module), "off" (with it, without hooks) or "on". Further
# sections are those of Test::Memstat::Server; config and http_config are added to what all have.
sub server {
    my ($kind, %more) = @_;
    die "a server is absent, off or on\n" unless $kind =~ /^(?:absent|off|on)$/;
    my @config = ($CONFIG, $more{config} // '');
    push @config, $LUA if $more{lua} // 1;
    push @config, 'location /memstat { ' . ($kind eq 'absent' ? 'return 404' : 'memstat') . '; }';
    return Test::Memstat::Server->new(
        log_level  => 'warn',
        user_files => ">>> file\nok",
        %more,
        module      => $kind eq 'absent' ? 0 : 'first',
        main_config => ($more{main_config} // '') . ($kind eq 'off' ? "\nmemstat_hooks off;" : ''),
        http_config => $HTTP . ($more{http_config} // ''),
        config      => join("\n", @config),
    )->start;
}

# --- figures ---

sub quartiles {
    my @sorted = sort { $a <=> $b } @_;
    return map { between(\@sorted, $_) } 0.25, 0.5, 0.75;
}

sub median { return (quartiles(@_))[1] }

# The value so far into a sorted list, in proportion between the two beside it.
sub between {
    my ($sorted, $part) = @_;
    my $place = $#$sorted * $part;
    my ($low, $high) = map { $sorted->[$_] } int $place, POSIX::ceil($place);
    return $low + ($high - $low) * ($place - int $place);
}

# Median and quartiles as cells of a table.
sub spread {
    my ($format, @values) = @_;
    my ($low, $median, $high) = map { sprintf $format, $_ } quartiles(@values);
    return ($median, "$low to $high");
}

# A table in Markdown: its head, then its rows.
sub table {
    my ($head, @rows) = @_;
    my $rule = [ map { '---' } @$head ];
    return join '', map { '| ' . join(' | ', @$_) . " |\n" } $head, $rule, @rows;
}

# Tells that a figure must be at most so much; format is sprintf's, for both. The budgets come first in
# BENCHMARKS.md; a part that is run alone tells of them on standard error.
sub budget {
    my ($what, $most, $figure, $format) = @_;
    my $by     = sprintf $format, abs $figure - $most;
    my $answer = $figure <= $most ? 'met' : "**not met, by $by**";
    my @cells  = ($what, (map { sprintf $format, $_ } $most, $figure), $answer);
    my $to     = $ENV{BENCH_BUDGETS};
    open my $out, '>>', $to // '/dev/stderr' or die "cannot write budgets: $!\n";
    print $out join("\t", @cells), "\n";
    close $out or die "cannot write budgets: $!\n";
    return;
}

# The section of the budgets told to this file.
sub budgets {
    my ($path) = @_;
    my @rows = map { [ split /\t/ ] } split /\n/, read_file($path) // '';
    return '' unless @rows;
    return "## Budgets\n\n" . table([ 'figure', 'at most', 'measured', '' ], @rows);
}

# With what all of this is measured, a sentence.
sub measured_with {
    my ($nginx) = Test::Memstat::Server::nginx_version() =~ m{nginx/(\S+)};
    my ($valgrind) = `valgrind --version` =~ /valgrind-(\S+)/;
    my ($wrk) = `wrk -v 2>&1` =~ /^wrk (?:debian\/)?(\S+)/;
    my $cpuinfo = read_file('/proc/cpuinfo');
    my ($processor) = $cpuinfo =~ /^model name\s*:\s*(.*?)\s*$/m;
    my ($system, undef, $release, undef, $machine) = POSIX::uname();
    my $text = sprintf "Measured %s with nginx %s on %s (%s, %d cores), %s %s, with valgrind %s and wrk %s.",
        strftime('%Y-%m-%d', gmtime), $nginx, $processor // 'an unknown processor', $machine, processors(),
        $system, $release, $valgrind, $wrk;
    $text .= " A quick run: its figures are worth nothing." if $ENV{BENCH_QUICK};
    return wrapped($text);
}

# A paragraph in lines.
sub wrapped { return $_[0] =~ s/\s+/ /gr =~ s/ $//r =~ s/(.{1,106})(?: |$)/$1\n/gr }

1;
